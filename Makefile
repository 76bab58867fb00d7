# Every target sets up what it needs, once: `make run` on a fresh machine is enough.
# Once installed, all but `requirements` and the first image build work without a network.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help run test lint deadcode hooks package container-test dicom-test dicom-positions browser-test profile-test gpu-test gpu-wheels gpu-all bench fuzz fuzz-export weights shipped-weights requirements

help:
	@echo 'make run             segment the shipped case into out/'
	@echo 'make test            all tests but those of the container, and what they cover'
	@echo 'make lint            ruff, mypy, layering'
	@echo 'make deadcode        code that nothing uses'
	@echo 'make hooks           lint before each commit, by pre-commit'
	@echo 'make package         sdist and wheel into dist/python, and the wheel tried on its own'
	@echo 'make container-test  build the image, run it as the platform would'
	@echo 'make dicom-test      our DICOM objects read by plastimatch, dciodvfy and others'
	@echo 'make browser-test    the pages of cases in headless Chromium'
	@echo 'make dicom-positions the shipped case as DICOM slices, in each position of the patient'
	@echo 'make profile-test CHALLENGE=segrap_oar   a challenge from phantom to scores, or all'
	@echo 'make gpu-test        the same image on a GPU'
	@echo 'make gpu-all         all that a GPU has to show, in ten minutes, without a network'
	@echo 'make gpu-wheels      what gpu-all installs, into wheels/; needs a network'
	@echo 'make fuzz            read 100,000 broken files, and 10,000 of DICOM'
	@echo 'make fuzz-export     export 5,000 damaged plans, data set files and checkpoints'
	@echo 'make bench           the comparison tables'
	@echo 'make weights         go on training better networks, as a long job; see docs/phantoms.md'
	@echo 'make shipped-weights train and export the shipped ensemble again'
	@echo 'make requirements    resolve requirements.txt again'

.venv/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "oarseg needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv

# The stamps stand for "installed as pyproject.toml says"; what users run needs no torch.
.venv/run.stamp: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --editable '.[cpu]'
	touch $@

.venv/dev.stamp: pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --editable '.[cpu,train,dev]'
	touch $@ .venv/run.stamp

run: .venv/run.stamp
	mkdir -p out
	$(BIN)/python process.py --input test --output out
	@echo 'Results: out/. For other commands: $(BIN)/oarseg --help'

# Fails below the floor of coverage in pyproject.toml too. In a few processes, since most tests
# keep one core busy; more would each load torch and the networks.
TEST_PROCESSES := 2
test: .venv/dev.stamp
	$(BIN)/python -m pytest --cov --cov-report=term --numprocesses $(TEST_PROCESSES) --dist worksteal

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict oarseg process.py bench docker
	$(BIN)/lint-imports
	$(BIN)/python bench/homonyms.py

# The package by itself first: what only tests use is dead too.
deadcode: .venv/dev.stamp
	$(BIN)/vulture
	$(BIN)/vulture oarseg process.py bench docker test

hooks: .venv/dev.stamp
	$(BIN)/pre-commit install

package: .venv/dev.stamp
	.ci/package

container-test: .venv/dev.stamp
	$(BIN)/python -m pytest -m container

# Readers of RT Structure Sets, each in a venv of its own: dcmrtstruct2nii stands for pydicom 2.
READERS := build/readers
build/readers/dcmrtstruct2nii.stamp: PACKAGES := dcmrtstruct2nii==5 'pydicom<3'
build/readers/rt-utils.stamp: PACKAGES := rt-utils==1.2.7
build/readers/platipy.stamp: PACKAGES := platipy==0.7.2
build/readers/%.stamp:
	$(PYTHON) -m venv $(@:.stamp=)
	$(@:.stamp=)/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

dicom-test: .venv/dev.stamp $(READERS)/dcmrtstruct2nii.stamp $(READERS)/rt-utils.stamp $(READERS)/platipy.stamp
	@for tool in plastimatch dciodvfy; do command -v $$tool > /dev/null || { \
	  echo "make dicom-test needs $$tool: apt-get install plastimatch dicom3tools" >&2; exit 1; }; done
	$(BIN)/python -m pytest -m dicom_tools

# Driven by playwright, whose own browsers are not needed.
browser-test: .venv/dev.stamp
	@command -v chromium > /dev/null || { \
	  echo "make browser-test needs Chromium: apt-get install chromium" >&2; exit 1; }
	$(BIN)/python -m pytest -m browser

# A label that differs fails it. Every night; takes minutes.
dicom-positions: .venv/dev.stamp
	$(BIN)/python bench/dicom.py

# phantom → prepare → train (seconds) → export → container → evaluate; see oarseg challenges.
CHALLENGE ?= all
profile-test: .venv/dev.stamp
	$(BIN)/python -m pytest -m container test/container/test_profile_container.py --profiles $(CHALLENGE)

gpu-test: .venv/dev.stamp
	$(BIN)/python -m pytest -m gpu

# A machine with a GPU, Python 3.12, torch and CuPy, but without a network, takes the rest from
# WHEELS. Tables go to GPU_OUT; bench/gpu_compare.py compares them with older ones.
WHEELS := wheels
GPU_PYTHON := python3
GPU_OUT := bench/results
WHEEL_PLATFORMS := $(foreach n,2014 _2_17 _2_27 _2_28,--platform manylinux$(n)_x86_64)
gpu-wheels:
	$(PYTHON) -m pip download --quiet --dest $(WHEELS) --no-deps --only-binary :all: --implementation cp \
	  --python-version 3.12 $(WHEEL_PLATFORMS) --requirement bench/gpu-wheels.txt
	$(PYTHON) -m pip wheel --quiet --wheel-dir $(WHEELS) --no-deps --requirement bench/gpu-sources.txt

gpu-all:
	$(GPU_PYTHON) bench/gpu_all.py --wheels $(WHEELS) --out $(GPU_OUT)

fuzz: .venv/dev.stamp
	$(BIN)/python bench/fuzz.py --files 100000
	$(BIN)/python bench/fuzz.py --dicom --files 10000 --folder build/fuzz-dicom

fuzz-export: .venv/dev.stamp
	$(BIN)/python bench/fuzz_export.py --files 5000

bench: .venv/dev.stamp
	$(BIN)/python bench/inference.py --out bench/results
	$(BIN)/python bench/startup.py --out bench/results
	$(BIN)/python bench/scaling.py --out bench/results
	$(BIN)/python bench/effort.py --seeds 300 301 302 303 --out bench/results
	$(BIN)/python bench/region.py --out bench/results
	$(BIN)/python bench/parity.py --scale 2 --out bench/results
	$(BIN)/python bench/evaluation.py --out bench/results
	$(BIN)/python bench/plausibility.py --out bench/results
	$(BIN)/python bench/page.py --out bench/results
	$(BIN)/python bench/registration.py same-pose --seeds 6 --peers --out bench/results
	$(BIN)/python bench/registration.py same-pose impostors lookalikes --out bench/results
	$(BIN)/python bench/registration.py flexed --registration bspline --out bench/results

# Rounds of new phantoms of levels 0 and 2, from the shipped weights on, for as long as it is left
# running; killed, it goes on where it was. The best lie in build/weights/best. In WEIGHTS:
# options, such as --device cuda or --templates DIR.
WEIGHTS :=
weights: .venv/dev.stamp
	nnUNet_n_proc_DA=1 nice -n 19 $(BIN)/python bench/weights.py build/weights --start weights $(WEIGHTS)

# The shipped ensemble: three networks of one training on phantoms of levels 0 and 2 (the ends of its
# schedules, bench/weights.json), no patient anywhere. It began with the last network of the ensemble
# in START, so that one made again from the shipped weights is another, further trained one, and it
# should name the round after (ROUND), whose phantoms are new. Takes an hour on two cores in
# bfloat16; killed, it goes on where it was.
WORK := build/shipped-weights
START := weights
ROUND := 2
BIASED := $(WORK)/biased
shipped-weights: .venv/dev.stamp
	nnUNet_n_proc_DA=1 $(BIN)/python bench/weights.py $(WORK) --start $(START) --rounds 1 \
		--first-round $(ROUND) --cases 40 --validation 4
	$(BIN)/python bench/class_biases.py $(WORK)
	$(BIN)/python bench/postprocessing.py $(BIASED)
	$(BIN)/oarseg export $(BIASED)/best/OarsegTrainer__oarsegSmall__3d_fullres --out weights \
		--folds 0 1 2 --preprocessed $(WORK)/preprocessed/oarsegSmall_3d_fullres \
		--postprocessing $(BIASED)/postprocessing/predicted/postprocessing.json \
		--title 'HaN-Seg phantom ensemble' --name phantom \
		--warning 'NOT FOR CLINICAL USE: trained on synthetic images only, not on patients.' \
		--training '80 phantoms (oarseg phantom, levels 0 and 2), after 224 others; no patient data' \
		--licence Apache-2.0

# Exactly what the two images hold: the base and an extra, for their Python and glibc; and what of
# ITK they keep. Pins that are still allowed stay; add UPGRADE=--upgrade to renew them.
requirements: .venv/dev.stamp
	for pins in gpu:requirements.txt cpu:requirements-cpu.txt; do \
	  PATH="$(BIN):$$PATH" uv pip compile $(UPGRADE) pyproject.toml --extra "$${pins%%:*}" \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	    --generate-hashes --annotation-style line --no-emit-index-url --no-emit-find-links \
	    --quiet --output-file "$${pins#*:}"; \
	done
	$(BIN)/python bench/itk_parts.py docker/itk.txt
