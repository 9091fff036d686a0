#!/bin/bash
# Builds the serve image; where REPOSITORY is set (HOST/NAME in ECR) it is pushed there, named by its COMMIT.
# A second run of the same commit takes the image that is there: tags do not move.
set -euo pipefail
refuse() {
  printf 'error: %s\n  fix: %s\n' "$@" >&2
  exit 1
}
docker version > /dev/null 2>&1 ||
  refuse "no Docker daemon answers, and images are built by it" "install and start Docker, or let the pipeline build: docs/delivery.md"
[ -z "${REPOSITORY:-}" ] || aws sts get-caller-identity > /dev/null 2>&1 ||
  refuse "AWS lets nobody in here, and the image is for $REPOSITORY" "install the AWS CLI and sign in; without REPOSITORY it is only built"
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
