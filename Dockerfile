# The image that Grand Challenge runs: nnU-Net's answer on CUDA 12 or CPU, without torch.
# Build it with ./build.sh, which also sets the version's label. REQUIREMENTS=requirements-cpu.txt
# leaves CUDA out.

FROM python:3.11-slim AS builder

# The same base in both stages, so that the venv's link to its interpreter stays true.
# pip stays outside the venv: nothing in the final image needs it.
RUN python -m venv --without-pip /opt/venv
ARG REQUIREMENTS=requirements.txt
COPY requirements.txt requirements-cpu.txt /tmp/
# --no-deps: the file is the whole, resolved set.
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --no-deps --only-binary :all: --require-hashes -r "/tmp/$REQUIREMENTS" \
    && chmod -R u=rwX,go=rX /opt/venv
# What no run can use goes (prune.py, static libraries, the packages' own tests), in a step of its own:
# another choice downloads nothing again. Byte code is compiled here because the root is read-only
# at run time, and never checked: the sources do not change.
COPY docker/prune.py docker/itk.txt /tmp/
RUN python /tmp/prune.py /opt/venv/lib/python3.11/site-packages \
    && find /opt/venv -name '*.a' -delete \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

COPY process.py /opt/app/
COPY oarseg /opt/app/oarseg
COPY weights /opt/app/weights
# 0 leaves the phantom weights out, so that a run without a model is an error.
ARG WITH_WEIGHTS=1
RUN [ "$WITH_WEIGHTS" = 1 ] || find /opt/app/weights -mindepth 1 -delete
# The build context's modes are those of whoever cloned; any uid must be able to read.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/app \
    && chmod -R u=rwX,go=rX /opt/app


FROM python:3.11-slim

# Nothing runs with more rights than the caller's, and nothing can be installed: the folder
# that pip lies in holds installers only.
RUN groupadd --gid 1000 user \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin user \
    && rm -rf "$(python -c 'import os, pip; print(os.path.dirname(pip.__path__[0]))')"/* \
        /usr/bin/pip* /usr/local/bin/pip* /etc/pip.conf \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

COPY --from=builder /opt/venv /opt/venv
# The loader's cache, rather than LD_LIBRARY_PATH: the platform starts the entry point
# with an environment of its own.
RUN find /opt/venv/lib/python3.11/site-packages -path '*/nvidia/*/lib' -prune \
        > /etc/ld.so.conf.d/cuda.conf \
    && ldconfig
COPY --from=builder /opt/app /opt/app
# exec: once a case; invoke: an HTTP server on port 4743 that keeps its networks open.
ARG API_METHOD=exec
RUN case "$API_METHOD" in exec|invoke) echo "$API_METHOD" > /opt/app/api-method ;; *) exit 1 ;; esac

# HOME: the caches of CUDA and CuPy go where any uid may write.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=unknown
LABEL org.opencontainers.image.title="oarseg" \
      org.opencontainers.image.description="Organs at risk on CT and MR: nnU-Net ensembles without torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.grand-challenge.api-method="${API_METHOD}"

WORKDIR /opt/app
USER 1000:1000
# A batch job's exit status says how it is; a server is asked by the platform itself.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/venv/bin/python", "/opt/app/process.py"]
