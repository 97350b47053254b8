# The same as `make build`, in two stages.
#
#   docker build -t lathe .                                CPU
#   docker build -t lathe --build-arg DEVICE=cuda .        NVIDIA GPUs as well
#   docker run -p 7860:7860 -v lathe:/data -e LATHE_TOKEN=at-least-16-characters lathe
#   docker run --gpus all …                                with a driver of version 580 or newer
#
# The port outside must be the one inside: the studio refuses requests under another name. LATHE_TOKEN is needed, since
# others can reach the container.

ARG DEVICE=cpu

FROM rust:1.95-bookworm AS tools-cpu
ENV CUDA=0

FROM tools-cpu AS tools-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
COPY scripts/cuda-toolchain.sh /opt/
RUN /opt/cuda-toolchain.sh /opt/cuda
ENV CUDA=1

FROM tools-${DEVICE} AS build
WORKDIR /src
COPY . .
# Of CUDA, only the libraries that the worker is linked with go along.
RUN if [ "$CUDA" = 1 ]; then eval "$(/opt/cuda-toolchain.sh /opt/cuda)"; fi; \
    make build CUDA="$CUDA" && mkdir dist && cp target/release/lathe dist/ && \
    if [ "$CUDA" = 1 ]; then \
      cp target/release/lathe-cuda-worker dist/ && mkdir dist/cuda && \
      for name in cublas cublasLt cudart curand nvrtc nvrtc-builtins; do \
        cp "$CUDA_HOME"/lib/lib$name.so.* dist/cuda/; done; \
    fi

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libstdc++6 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 lathe && mkdir /data && chown lathe /data
COPY --from=build /src/dist/ /usr/local/bin/
USER lathe
ENV LATHE_HOME=/data HF_HOME=/data/huggingface
# What NVIDIA's container runtime brings in from the host: the driver, for computing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /data
EXPOSE 7860
ENTRYPOINT ["lathe"]
CMD ["webui", "--host", "0.0.0.0"]
