#!/bin/bash
# Builds the serve image; where REPOSITORY is set (HOST/NAME in ECR) it is pushed there, named by its COMMIT.
# A second run of the same commit takes the image that is there: tags do not move.
set -euo pipefail
COMMIT=${COMMIT:-$(git rev-parse HEAD)}
TAG="${REPOSITORY:-nexus-serve}:${COMMIT:0:12}"
if [ -z "${REPOSITORY:-}" ]; then
  exec docker build --file containers/serve/Dockerfile --tag "$TAG" .
fi
NAME="${REPOSITORY#*/}"
found() { aws ecr describe-images --repository-name "$NAME" --image-ids "imageTag=${COMMIT:0:12}" "$@"; }
if ! found > /dev/null 2>&1; then
  aws ecr get-login-password | docker login --username AWS --password-stdin "${REPOSITORY%%/*}"
  docker build --file containers/serve/Dockerfile --tag "$TAG" .
  docker push "$TAG"
fi
DIGEST=$(found --query 'imageDetails[0].imageDigest' --output text)
mkdir -p build
printf 'IMAGE=%s@%s\nIMAGE_DIGEST=%s\n' "$REPOSITORY" "$DIGEST" "$DIGEST" | tee build/image.env
