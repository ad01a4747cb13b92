# ram_backend without a GPU. The same image serves (`serve`, the default) and learns (`worker`).
#
#   docker build --file docker/cpu.Dockerfile --tag ram-backend:cpu .
#
# The base is pinned by its exact version. To pin it by content, too, give the digest that you have checked:
#   --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
# cuda.Dockerfile differs in where PyTorch comes from and in what the NVIDIA container runtime wants to be told.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# An index with a PyTorch for the CPU only: the usual one brings gigabytes of CUDA. Empty: the usual one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv
COPY docker/requirements.txt docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --constraint docker/requirements.txt torch torchvision
# A layer of its own: a changed requirement leaves PyTorch's gigabytes where they are.
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --requirement docker/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY ram_backend ram_backend
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels . \
    && pip install --no-deps /wheels/*.whl \
    && pip check
# The starter bundle and its text encoder are made now, so that no container has to: an empty volume at /data is filled
# from here.
RUN RAM_DATA_DIR=/data python -c "from ram_backend.server.running import prepare; from ram_backend.settings import load_settings; \
    prepare(load_settings(), print)"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="ram_backend" \
      org.opencontainers.image.description="Label Studio ML backend around the Recognize Anything Model (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 ram \
    && useradd --uid 10001 --gid ram --home-dir /data --no-create-home --shell /usr/sbin/nologin ram
COPY --from=build /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/ram_backend/
COPY --from=build --chown=10001:10001 /data /data
# ORT_DISABLE_TELEMETRY: onnxruntime's Linux builds report to their maker unless they are told not to.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAM_DATA_DIR=/data \
    HF_HOME=/data/cache/huggingface
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "/opt/ram_backend/healthcheck.py", "server"]
ENTRYPOINT ["ram-backend"]
CMD ["serve", "--host", "0.0.0.0"]
