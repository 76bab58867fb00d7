"""Describe a model's channels as its data set and its challenge state them."""

from __future__ import annotations

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.model.entries.channels import Channel, ChannelRecipe
from oarseg.training.nnunet_files.own_challenge import channel_names
from oarseg.training.nnunet_files.results_folder import Results

# nnU-Net's names of normalisations, which stand in place of a channel's own name.
NAMELESS = ("nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1")


def model_channels(results: Results, challenge: Challenge) -> tuple[Channel, ...]:
    """Return the channels that ``prepare`` noted, or else one for each of the challenge's inputs.

    Raises:
        InputError: the data set has others.
    """
    recipes = results.dataset.oarseg.channels
    if recipes is None:
        recipes = tuple(ChannelRecipe(socket.channel) for socket in challenge.sockets)
        _check_channels(results, challenge)
    if len(recipes) != len(results.dataset.channels):
        raise InputError(
            f"{results.folder}: the model takes {len(results.dataset.channels)} channels, "
            f"oarseg.channels in dataset.json describes {len(recipes)}; prepare the data set again"
        )
    return tuple(
        Channel(
            recipe.name,
            results.plans.normalisation(number),
            recipe.optional,
            recipe.absent_value,
            recipe.standardise,
            recipe.window_hu,
        )
        for number, recipe in enumerate(recipes)
    )


def _check_channels(results: Results, challenge: Challenge) -> None:
    """Compare the data set's channels with the challenge's inputs, in order.

    Raises:
        InputError: their number or a name differs.
    """
    names, sockets = channel_names(results.dataset), challenge.sockets
    given = ", ".join(socket.channel for socket in sockets)
    if len(names) != len(sockets):
        raise InputError(
            f"{results.folder}: the model takes {len(names)}: {', '.join(names)}; "
            f"challenge {challenge.name} has {len(sockets)} inputs: {given}; leave --challenge "
            "out, or name the right one"
        )
    for number, (name, socket) in enumerate(zip(names, sockets, strict=True)):
        told = {socket.channel.casefold(), socket.modality.casefold(), *NAMELESS}
        if not {name.casefold(), results.dataset.channels[number].casefold()} & told:
            raise InputError(
                f"{results.folder / 'dataset.json'}: channel {number} is {name}, challenge "
                f"{challenge.name} gives {socket.channel} there; leave --challenge out, or pass "
                "one with these channels ('oarseg challenges --from dataset.json' writes it)"
            )
