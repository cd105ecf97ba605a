# The embedded engine, on a CPU:
#   docker build -f docker/engine.Dockerfile -t lragent .
#   docker run --rm -it lragent demo
#   docker run --rm -p 127.0.0.1:8000:8000 lragent serve --host 0.0.0.0
# For a GPU build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 and run with
# --gpus all. Models stay in the volume /models.
FROM python:3.12-slim

# Triton builds the launchers of its kernels with it.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && \
    rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch --index-url "$TORCH_INDEX"

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir '/src[all]' && rm -rf /src

RUN useradd --create-home lragent && mkdir /models && chown lragent /models
USER lragent
WORKDIR /home/lragent
ENV HF_HOME=/models/huggingface XDG_CACHE_HOME=/models/cache HF_HUB_DISABLE_TELEMETRY=1
VOLUME /models
ENTRYPOINT ["lragent"]
CMD ["check"]
