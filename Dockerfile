# docker build -t unetzoo .            an image with the package, as README's first command installs it
# docker build --target ci .           the same steps as .ci/run, in a clean machine
# docker run --rm -v "$PWD":/data unetzoo predict nuclei cells.png --out masks --overlay
FROM python:3.13-slim AS base
ENV PIP_NO_CACHE_DIR=1
# PyTorch for the CPU: the plain wheels bring several GB of CUDA. For a GPU: docker build --build-arg TORCH_INDEX= .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install torch torchvision ${TORCH_INDEX:+--index-url $TORCH_INDEX}
COPY . /unetzoo
WORKDIR /unetzoo

FROM base AS ci
RUN apt-get update && apt-get install -y --no-install-recommends chromium git && rm -rf /var/lib/apt/lists/*
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX}
RUN .ci/run

FROM base AS unetzoo
RUN pip install ".[train,objects]" && unetzoo demo --out /tmp/demo.png
RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["unetzoo"]
