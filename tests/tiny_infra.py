"""An infra/ of a few small resources, with stages, outputs and backends as the real one has: seconds, not minutes."""

from __future__ import annotations

from pathlib import Path

_VERSIONS = """
terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = { source = "hashicorp/aws", version = "~> 5.100" }
  }
  %s
}
"""
_TOLD = """
variable "name" { type = string }
variable "account_id" { type = string }
variable "region" { type = string }
provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]
  default_tags { tags = { platform = var.name } }
}
"""
_STATE = """
resource "aws_kms_key" "state" {
  description         = var.name
  enable_key_rotation = true
}
resource "aws_s3_bucket" "state" { bucket = "${var.name}-state-${var.account_id}" }
resource "aws_s3_bucket_versioning" "state" {
  bucket = aws_s3_bucket.state.bucket
  versioning_configuration { status = "Enabled" }
}
output "state" {
  value = {
    bucket = aws_s3_bucket_versioning.state.bucket, region = var.region, kms_key_arn = aws_kms_key.state.arn
  }
}
"""
# Topics side by side: terraform is killed when one is made and another is not.
_PLATFORM = """
variable "availability_zones" { type = list(string) }
variable "topics" {
  type    = number
  default = 3
}
resource "aws_s3_bucket" "data" { bucket = "${var.name}-data-${var.account_id}" }
resource "aws_sns_topic" "first" { name = "${var.name}-first" }
resource "aws_sns_topic" "more" {
  count = var.topics
  name  = "${var.name}-${count.index}"
}
resource "aws_eip" "way_out" { domain = "vpc" }
output "platform" { value = { name = var.name, data_bucket = aws_s3_bucket.data.bucket } }
output "jobs" { value = { topics = aws_sns_topic.more[*].arn } }
"""


def tiny_infra(folder: Path) -> Path:
    """Writes it below `folder`."""
    infra = folder / "infra"
    for stage, backend, text in (("0-state", "", _STATE), ("1-platform", 'backend "s3" {}', _PLATFORM)):
        (infra / "stages" / stage).mkdir(parents=True)
        (infra / "stages" / stage / "main.tf").write_text(_VERSIONS % backend + _TOLD + text)
    (infra / "modules").mkdir()
    (infra / "environments" / "small").mkdir(parents=True)
    return infra
