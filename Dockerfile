# One build, six images: docker build --target gateway -t plinth/gateway:0.1.0 .
#
# Targets: registry-service, config-service, health-aggregator, gateway, plinth, demo-service. BINARIES=prebuilt takes the
# programs from ./prebuilt instead of compiling them. The classic builder works through every stage whether it is
# needed or not, so with prebuilt programs it also wants RUST_IMAGE=debian:bookworm-slim.

# The version is that of rust-toolchain.toml; a test compares them.
ARG RUST_IMAGE=rust:1.95.0-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
# build or prebuilt
ARG BINARIES=build

# What decides which dependencies are compiled: manifests and empty sources. It changes when they do, not when code does.
FROM ${RUST_IMAGE} AS manifests
ARG BINARIES
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY .cargo/ .cargo/
COPY crates/ crates/
COPY services/ services/
COPY examples/ examples/
COPY tests/ tests/
COPY xtask/ xtask/
COPY infrastructure/docker/manifests.sh /usr/local/bin/manifests.sh
RUN if [ "$BINARIES" = build ]; then sh /usr/local/bin/manifests.sh /source /manifests; else mkdir /manifests; fi

FROM ${RUST_IMAGE} AS compiled
ARG BINARIES
ARG PROFILE=dist
WORKDIR /source
ENV CARGO_TARGET_DIR=/target \
    CARGO_INCREMENTAL=0
COPY infrastructure/docker/compile.sh /usr/local/bin/compile.sh
# The layer that stays: every dependency, compiled against empty sources.
COPY --from=manifests /manifests .
RUN [ "$BINARIES" != build ] || sh /usr/local/bin/compile.sh "$PROFILE"
COPY crates/ crates/
COPY services/ services/
COPY examples/ examples/
RUN if [ "$BINARIES" = build ]; then sh /usr/local/bin/compile.sh "$PROFILE" /out; else mkdir /out; fi

FROM scratch AS binaries-build
COPY --from=compiled /out/ /out/

FROM scratch AS binaries-prebuilt
COPY prebuilt/ /out/

# hadolint ignore=DL3006
FROM binaries-${BINARIES} AS binaries

# The runtime's root file system, gathered file by file: the C library as far as the programs need it, certificate
# authorities, time zones, one user. No shell, no package manager.
FROM ${DEBIAN_IMAGE} AS rootfs
# Debian removes superseded versions from its archive: a pinned one stops building with the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgcc-s1 tzdata \
    && rm -rf /var/lib/apt/lists/*
COPY infrastructure/docker/rootfs.sh /usr/local/bin/rootfs.sh
COPY --from=binaries /out/ /out/
RUN sh /usr/local/bin/rootfs.sh /out /rootfs

FROM scratch AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.vendor="Plinth" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=rootfs /rootfs/ /
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/plinth/
ENV PATH=/usr/local/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /
STOPSIGNAL SIGTERM

# Listeners are on every address of the container. A service there refuses to start without a key that verifies tokens.
FROM runtime AS registry-service
LABEL org.opencontainers.image.title="plinth/registry-service" \
      org.opencontainers.image.description="Service registry and discovery over Consul"
ENV PLINTH_REGISTRY__LISTEN=0.0.0.0:8510 \
    PLINTH_REGISTRY__STATUS_LISTEN=0.0.0.0:8007 \
    PLINTH_REGISTRY__LOG__FORMAT=json
COPY --from=binaries /out/registry-service /usr/local/bin/registry-service
EXPOSE 8510 8007
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/registry-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/registry-service"]

FROM runtime AS config-service
LABEL org.opencontainers.image.title="plinth/config-service" \
      org.opencontainers.image.description="Configuration with revisions, history and live watches"
ENV PLINTH_CONFIG__LISTEN=0.0.0.0:8520 \
    PLINTH_CONFIG__STATUS_LISTEN=0.0.0.0:8007 \
    PLINTH_CONFIG__LOG__FORMAT=json \
    PLINTH_CONFIG__DATA_DIR=/data
COPY --from=rootfs --chown=65532:65532 /empty/ /data/
COPY --from=binaries /out/config-service /usr/local/bin/config-service
EXPOSE 8520 8007
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/config-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/config-service"]

FROM runtime AS health-aggregator
LABEL org.opencontainers.image.title="plinth/health-aggregator" \
      org.opencontainers.image.description="Probes instances and keeps their health in Consul"
ENV PLINTH_HEALTH__LISTEN=0.0.0.0:8530 \
    PLINTH_HEALTH__STATUS_LISTEN=0.0.0.0:8007 \
    PLINTH_HEALTH__LOG__FORMAT=json
COPY --from=binaries /out/health-aggregator /usr/local/bin/health-aggregator
EXPOSE 8530 8007
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/health-aggregator", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/health-aggregator"]

# Access logs that a Kong file sends to /var/log/kong go to standard output. A volume mounted there takes them instead.
FROM runtime AS gateway
LABEL org.opencontainers.image.title="plinth/gateway" \
      org.opencontainers.image.description="API gateway that runs Kong's declarative configuration"
ENV PLINTH_GATEWAY__PROXY_LISTEN="0.0.0.0:8000 http2" \
    PLINTH_GATEWAY__ADMIN_LISTEN=0.0.0.0:8001 \
    PLINTH_GATEWAY__STATUS_LISTEN=0.0.0.0:8007 \
    PLINTH_GATEWAY__LOG__FORMAT=json
COPY --from=rootfs --chown=65532:65532 /kong-logs/ /var/log/kong/
COPY --from=binaries /out/gateway /usr/local/bin/gateway
EXPOSE 8000 8443 8001 8007
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/gateway", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/gateway"]

FROM runtime AS plinth
LABEL org.opencontainers.image.title="plinth/plinth" \
      org.opencontainers.image.description="Command line for operators; the whole platform in one process"
ENV PLINTH_DATA_DIR=/data \
    HOME=/data
COPY --from=rootfs --chown=65532:65532 /empty/ /data/
COPY --from=binaries /out/plinth /usr/local/bin/plinth
VOLUME ["/data"]
EXPOSE 8500 8510 8520 8530 8000 8001 8007
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/plinth", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/plinth"]
CMD ["up"]

FROM runtime AS demo-service
LABEL org.opencontainers.image.title="plinth/demo-service" \
      org.opencontainers.image.description="Example of a service that registers itself"
ENV PLINTH_DEMO__LISTEN=0.0.0.0:8080
COPY --from=binaries /out/demo-service /usr/local/bin/demo-service
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/demo-service", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/demo-service"]
