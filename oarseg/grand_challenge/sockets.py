"""A challenge's inputs and output as the platform names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oarseg.challenges.challenge import Challenge, LargestImage, Output
from oarseg.errors import InputError


def with_sockets(
    rules: Challenge,
    *,
    inputs: Sequence[str] = (),
    output: str | None = None,
    largest: LargestImage | None = None,
) -> Challenge:
    """Return a challenge that reads and writes the platform's sockets.

    Args:
        rules: the challenge.
        inputs: slugs of its images, in its order; empty leaves those it has.
        output: slug of the label map, which is then ``images/<slug>/<name of the image>.mha``;
            None leaves the output it has.
        largest: the largest reference image; None leaves the one it has.

    Raises:
        InputError: there are more or fewer slugs than images, or two are alike.
    """
    channels = [socket.channel for socket in rules.sockets]
    if inputs and (len(inputs) != len(channels) or len(set(inputs)) != len(inputs)):
        raise InputError(
            f"--input-slugs: expected {len(channels)} different slugs, for {', '.join(channels)}, "
            f"found {' '.join(inputs)}"
        )
    sockets = tuple(
        replace(
            socket,
            slug=slug,
            largest=largest if largest and socket.reference else socket.largest,
        )
        for socket, slug in zip(
            rules.sockets, inputs or [socket.slug for socket in rules.sockets], strict=True
        )
    )
    written = rules.output
    if output is not None:
        written = Output(slug=output, ending=".mha", form=rules.output.form)
    return replace(rules, sockets=sockets, output=written)
