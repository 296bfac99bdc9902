# The service with what it needs to run, and nothing else.
#   docker build -f docker/service.Dockerfile -t tessera:cuda .
#   docker build -f docker/service.Dockerfile -t tessera:cpu --build-arg PROVIDER=cpu .

# Python 3.11.16, for every platform that it is made for.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS packages
ARG PROVIDER=cuda
COPY docker/${PROVIDER}.lock /lock
# With a mirror of the package index: pip's configuration as --secret id=pip.conf, and the certificates that it
# names as --secret id=ca.pem.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv install \
        --disable-pip-version-check --root-user-action ignore --only-binary :all: --require-hashes -r /lock \
    # The packages' own tests, and what they read.
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE} AS code
COPY service /app/service
# Readable whatever the modes in the checkout are, and compiled here, since the container can write nothing.
RUN chmod -R u=rwX,go=rX /app \
    && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE}
# No installer in what serves, nothing that raises rights, and /tmp alone for everyone to write into.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && find / -xdev -type d -perm -0002 ! -path /tmp -exec chmod o-w {} + \
    && mkdir /exported
# The large layer first: it is the same until the lock changes.
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TESSERA_HOST=0.0.0.0 \
    TESSERA_MODELS=/exported
WORKDIR /app
# A user without rights and without a name; any other works too.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=2m --retries=3 CMD ["python", "-S", "-m", "service.server.healthcheck"]
ENTRYPOINT ["python", "-m", "service"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tessera" \
      org.opencontainers.image.description="Turns images into codes, as a service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
