# syntax=docker/dockerfile:1

# A static binary on an empty image: no shell, no package, nothing to update but Tribus itself.
#
#   docker build -t tribus .
#   docker run -p 8080:8080 --stop-timeout 30 --ulimit nofile=262144 \
#     -e TRIBUS__AUTH__HS256_SECRET="$(openssl rand -hex 32)" tribus

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY static static
COPY src src
# Static with glibc, not musl: its allocator is the one whose figures ARCHITECTURE.md has. Since
# glibc 2.34 names are looked up without any library to load, so this works on an empty image too.
# Naming the target keeps the flags from what runs only while building.
ENV RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-gnu" \
    && cargo build --release --locked --bin tribus --target "$target" \
    && cp "target/$target/release/tribus" /tribus

FROM scratch
# For JWKS URLs, auth hooks and collectors that are asked by https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /tribus /tribus
# A number, so that `runAsNonRoot` of Kubernetes can be sure of it.
USER 65532:65532
# In a container loopback is out of everyone's reach. The operators' listener stays on it: set
# TRIBUS__ADMIN_LISTEN where a network of its own lets Prometheus and probes in, and nobody else.
ENV TRIBUS__LISTEN=0.0.0.0:8080
EXPOSE 8080
# Orchestrators that do their own probing ignore it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/tribus", "health"]
ENTRYPOINT ["/tribus"]
CMD ["serve"]
