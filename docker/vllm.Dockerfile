# vLLM with the plugin, on a GPU:
#   docker build -f docker/vllm.Dockerfile -t lragent-vllm .
#   docker run --rm --gpus all -p 8000:8000 -v /my/adapters:/adapters:ro lragent-vllm MODEL \
#     --enable-lora --max-lora-rank 16 --max-loras 3 \
#     --lora-modules plan=/adapters/plan act=/adapters/act \
#     --additional-config '{"lragent": {"policy": "neutral", "groups": [["plan", "act"]]}}' \
#     --lora-target-modules q_proj v_proj
ARG VLLM=v0.33.0
FROM vllm/vllm-openai:${VLLM}

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
# All that the image has stays as it is; what is missing is small.
RUN python3 -m pip list --format=freeze > /tmp/kept && \
    python3 -m pip install --no-cache-dir --constraint /tmp/kept /src && rm -rf /src

# Also loads the HTTP endpoint /v1/lragent/stats and the metrics.
ENV VLLM_PLUGINS=lragent
