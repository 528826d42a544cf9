# docker build --tag d2o .
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" d2o sample digits-small --seeds 0-63 --out grid.png
#
# With a GPU (NVIDIA's container toolkit; add --gpus all to docker run):
# docker build --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg TORCH=default --tag d2o:cuda .

ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH=cpu
ARG EXTRAS=serve

# bases without Python, such as those of CUDA, have one of their own
RUN python3 -c 'import ensurepip' 2> /dev/null || { apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }
RUN python3 -m venv /opt/venv && useradd --create-home d2o && install --directory --owner d2o /data
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1

WORKDIR /opt/d2o
COPY constraints.txt ./
RUN if [ "$TORCH" = cpu ]; then index="--index-url https://download.pytorch.org/whl/cpu --no-deps"; fi \
    && pip install --constraint constraints.txt $index torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --constraint constraints.txt ".[$EXTRAS]"

# --user may name anyone: what is cached stays beside the data
ENV HOME=/data USER=d2o
USER d2o
WORKDIR /data
ENTRYPOINT ["d2o"]
CMD ["--help"]
