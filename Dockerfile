# syntax=docker/dockerfile:1
# cnnviz for a CPU. Photographs and results are mounted:
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" cnnviz:cpu gradcam photos/

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/cnnviz
ENV PATH="/opt/cnnviz/bin:$PATH"
# First and from its own index: the CPU build is a twentieth of what pip would take. No versions are pinned here:
# pyproject.toml says which it takes.
# hadolint ignore=DL3013
RUN pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
# Of pyproject.toml: embed, onnx, parquet, remote, superpixels, umap.
ARG EXTRAS=embed,onnx
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY cnnviz ./cnnviz
# hadolint ignore=DL3013
RUN pip install ".[${EXTRAS}]"

FROM python:3.12-slim
# Weights that are downloaded go to /cache, whoever runs it: mount a volume there to keep them.
ENV PATH="/opt/cnnviz/bin:$PATH" PYTHONUNBUFFERED=1 TORCH_HOME=/cache/torch HF_HOME=/cache/huggingface
RUN useradd --create-home --uid 1000 cnnviz && install -d -m 1777 /cache /data
COPY --from=build /opt/cnnviz /opt/cnnviz
USER 1000
WORKDIR /data
ENTRYPOINT ["cnnviz"]
CMD ["--help"]
