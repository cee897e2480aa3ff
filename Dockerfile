# The service, on the Node of its packages: what runs is what package-lock.json names by hash, the same as elsewhere. Of
# the image it takes Debian and npm; name yours by digest (--build-arg IMAGE=node:24-bookworm-slim@sha256:...) to have
# that pinned too. Not built by .ci/run: no container engine there.
#
#   docker build -t entity-service .
#   docker run -p 50051:50051 -e DATABASE_URL=postgres://... entity-service
#
# Without DATABASE_URL the service keeps a PostgreSQL of its own in /data: mount a volume there, give it memory of its
# own (--shm-size=256m), and let it stop in its own time (--stop-timeout 30).
ARG IMAGE=node:24-bookworm-slim
FROM $IMAGE AS packages
WORKDIR /app
COPY package.json package-lock.json ./
# The install scripts link the libraries of the embedded PostgreSQL.
RUN npm ci --omit=dev --no-audit --no-fund && npm cache clean --force

# The console, by packages that do not run in the end.
FROM $IMAGE AS console
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund && npm cache clean --force
COPY clients clients
RUN node_modules/.bin/node clients/console/build.ts clients/console/dist

FROM $IMAGE
ENV PATH=/app/node_modules/.bin:$PATH
ENV NODE_ENV=production HOST=0.0.0.0 PORT=50051 DATA_DIR=/data MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=131072
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json LICENSE ./
COPY proto proto
COPY clients/typescript clients/typescript
COPY --from=console /app/clients/console/dist clients/console/dist
COPY src src
RUN install -d -o node -g node /data
USER node
VOLUME /data
EXPOSE 50051
HEALTHCHECK --start-period=15s --interval=10s --timeout=3s CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/grpc.health.v1.Health/Check`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' }).then((answer) => answer.json()).then(({ status }) => process.exit(status === 'SERVING' ? 0 : 1), () => process.exit(1))"]
# As `npm start` does, but not through npm: signals go straight to the service. Left to itself the heap grows with the
# machine's memory, to no use here.
CMD ["node", "--max-semi-space-size=8", "--heap-growing-percent=100", "src/main.ts", "serve"]
