"""The rooms of the package: what lies in them, and which way imports run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "oarseg"
MAX_MODULES = 12
LAYERS = "rooms: imports run one way"
# nnU-Net looks for trainers in a plain folder.
NO_ROOM = {PACKAGE / "training" / "trainers"}
WRONG_IMPORTS = [
    (LAYERS, "phantom/spec.py", "from oarseg.workflows import report"),
    ("geometry knows no files", "imaging/rigid.py", "from oarseg.imaging.files import locate"),
    ("torch and nnU-Net in training only", "labels/dice.py", "import torch"),
    ("the supervisor stays small", "workflows/supervisor.py", "import numpy"),
]


def find_rooms() -> list[Path]:
    return sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE} - NO_ROOM)


def test_nothing_lies_flat_in_the_package() -> None:
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "errors.py", "py.typed"}


@pytest.mark.parametrize("room", find_rooms(), ids=lambda room: str(room.relative_to(PACKAGE)))
def test_room_says_what_it_is_and_is_not_full(room: Path) -> None:
    modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(modules) <= MAX_MODULES
    assert (room / "__init__.py").read_text(encoding="utf-8").startswith('"""')


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| \d \| `([a-z_/]+)/` \|", text, re.MULTILINE))
    assert named == {str(room.relative_to(PACKAGE)) for room in find_rooms()}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_page_names_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in links if not (page.parent / target).exists()] == []
    rooms = "|".join(room.name for room in find_rooms())
    modules = re.findall(rf"`((?:oarseg|test|bench|{rooms})/[\w/]+\.py)", text)
    assert [m for m in modules if not ((ROOT / m).exists() or (PACKAGE / m).exists())] == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package beside the contracts, for breaking."""
    shutil.copytree(PACKAGE, tmp_path / "oarseg", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path / "oarseg"


def check_contracts(folder: Path) -> tuple[set[str], set[str]]:
    """The contracts kept and broken by the package in a folder."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(\S.*) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
    broken = {name for name, verdict in found if verdict == "BROKEN"}
    assert found, done.stdout + done.stderr
    assert (done.returncode != 0) is bool(broken)
    return {name for name, _ in found} - broken, broken


def contract(name: str) -> dict[str, list[str]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = config["tool"]["importlinter"]["contracts"]
    return next(entry for entry in found if entry["name"] == name)


def test_forbidden_imports_hold_for_every_module_they_are_meant_for() -> None:
    """These contracts cannot be exhaustive, unlike the layers."""
    geometry = {f"oarseg.imaging.{path.stem}" for path in (PACKAGE / "imaging").glob("*.py")}
    named = set(contract("geometry knows no files")["source_modules"])
    assert named == geometry - {"oarseg.imaging.__init__"}
    rooms = {f"oarseg.{room.relative_to(PACKAGE).parts[0]}" for room in find_rooms()}
    named = set(contract("torch and nnU-Net in training only")["source_modules"])
    # The command line imports training inside its functions.
    assert named == rooms - {"oarseg.cli", "oarseg.training"}


def test_contracts_are_kept() -> None:
    kept, broken = check_contracts(ROOT)
    assert kept == {name for name, _, _ in WRONG_IMPORTS}
    assert not broken


@pytest.mark.parametrize(("name", "module", "line"), WRONG_IMPORTS)
def test_wrong_import_breaks_its_contract_only(
    copy: Path, name: str, module: str, line: str
) -> None:
    with (copy / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    _, broken = check_contracts(copy.parent)
    assert broken == {name}


def test_new_room_must_be_placed(copy: Path) -> None:
    (copy / "attic").mkdir()
    (copy / "attic" / "__init__.py").write_text('"""Nobody knows where this belongs."""\n')
    _, broken = check_contracts(copy.parent)
    assert broken == {LAYERS}


@pytest.fixture
def homonyms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("homonyms", ROOT / "bench" / "homonyms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["homonyms.py"])
    return module


def test_public_names_have_one_home(
    homonyms: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert homonyms.main() == 0, capsys.readouterr().out


def test_second_home_of_a_name_is_reported(
    homonyms: ModuleType,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (copy / "phantom" / "spec.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef load_challenge() -> None:\n    pass\n")
    monkeypatch.setattr(homonyms, "PACKAGE", copy)
    assert homonyms.main() == 1
    line = "load_challenge: oarseg/challenges/catalogue.py, oarseg/phantom/spec.py; NO REASON"
    assert line in capsys.readouterr().out.splitlines()


# Everything up to the first image of a case, in a fresh process.
BEGINS = """
import sys
from pathlib import Path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges.catalogue import load_challenge
from oarseg.cli.main import main
from oarseg.workflows import segment_folder
assert find_cases(Path("test"), load_challenge("han_seg")).cases
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(*sorted(name for name in sys.modules if name.startswith("scipy.")))
"""


def test_a_run_begins_without_what_only_other_runs_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGINS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    packages, parts = (set(line.split()) for line in done.stdout.splitlines())
    # DICOM, the other library for networks, orientations of NIfTI, connected parts: half a second.
    assert not packages & {"pydicom", "onnxruntime", "openvino", "itk", "matplotlib", "torch"}
    # A tenth of a second, for the registration of an MR and for pictures.
    assert "SimpleITK" not in packages
    assert not parts & {"scipy.spatial", "scipy.sparse", "scipy.stats", "scipy.interpolate"}


PRODUCTS = """
import os
from pathlib import Path
import oarseg.cli
import numpy as np
np.matmul(np.ones((512, 512), np.float32), np.ones((512, 512), np.float32))
print(os.environ["OPENBLAS_NUM_THREADS"], len(list(Path("/proc/self/task").iterdir())))
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_numpys_products_have_no_threads_unless_asked_for(given: str | None, expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    told, threads = done.stdout.split()
    assert told == expected
    assert int(threads) == 1 or given is not None
