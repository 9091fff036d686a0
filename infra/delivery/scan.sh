#!/bin/bash
# Judges what ECR found in an image, HOST/NAME@DIGEST. Exit codes: scan_gate.py's.
set -euo pipefail
NAME="${1#*/}"
IMAGE=(--repository-name "${NAME%@*}" --image-id "imageDigest=${1#*@}")
aws ecr wait image-scan-complete "${IMAGE[@]}"
aws ecr describe-image-scan-findings "${IMAGE[@]}" --output json | python3 infra/delivery/scan_gate.py \
  --max-severity "${MAX_SEVERITY:-MEDIUM}" --accepted infra/delivery/accepted-findings.json --today "$(date -u +%F)"
