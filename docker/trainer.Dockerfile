# The trainer, with torch and CUDA.
#   docker build -f docker/trainer.Dockerfile -t tessera:trainer .
#   docker run --rm --gpus all --user $(id -u):$(id -g) -v ./runs:/work/runs -v ./exported:/work/exported \
#     tessera:trainer vlae --epochs 30

# Python 3.11.16, for every platform that it is made for.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS packages
COPY docker/trainer.lock /lock
# As in service.Dockerfile.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv install \
        --disable-pip-version-check --root-user-action ignore --only-binary :all: --require-hashes -r /lock

FROM ${PYTHON_IMAGE} AS code
COPY service /app/service
COPY trainer /app/trainer
RUN chmod -R u=rwX,go=rX /app \
    && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE}
# For everyone to write into, besides /tmp: /cache, where downloaded data is kept.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && find / -xdev -type d -perm -0002 ! -path /tmp -exec chmod o-w {} + \
    && mkdir -p /work/runs /work/exported \
    && mkdir -m 1777 /cache
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /app /app
# A user without an entry in /etc/passwd has no name, and torch asks for it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=tessera \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TESSERA_DATA=/cache/tessera \
    HF_HOME=/cache/huggingface
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["python", "-m", "trainer"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tessera's trainer" \
      org.opencontainers.image.description="Trains models that turn images into codes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
