# The same as `make build`, in two stages.
#
#   docker build -t lathe .                                CPU
#   docker build -t lathe --build-arg DEVICE=cuda .        NVIDIA GPUs
#   docker run -p 7860:7860 -v lathe:/data -e LATHE_TOKEN=at-least-16-characters lathe
#
# The port outside must be the one inside: the studio refuses requests under another name. LATHE_TOKEN is needed, since
# others can reach the container.

ARG DEVICE=cpu

FROM rust:1.95-bookworm AS tools-cpu
ENV FEATURES=""

FROM nvidia/cuda:12.8.1-devel-ubuntu22.04 AS tools-cuda
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates g++ make && rm -rf /var/lib/apt/lists/*
COPY --from=tools-cpu /usr/local/rustup /usr/local/rustup
COPY --from=tools-cpu /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
ENV FEATURES=cuda

FROM tools-${DEVICE} AS build
WORKDIR /src
COPY . .
RUN make build

FROM debian:bookworm-slim AS base-cpu
FROM nvidia/cuda:12.8.1-runtime-ubuntu22.04 AS base-cuda

FROM base-${DEVICE}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 lathe && mkdir /data && chown lathe /data
COPY --from=build /src/target/release/lathe /usr/local/bin/lathe
USER lathe
ENV LATHE_HOME=/data HF_HOME=/data/huggingface
VOLUME /data
EXPOSE 7860
ENTRYPOINT ["lathe"]
CMD ["webui", "--host", "0.0.0.0"]
