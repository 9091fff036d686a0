# data: corpora, artifacts, checkpoints. models: what is served. logs: who asked for what.

locals {
  names      = { for one in ["data", "models", "logs"] : one => "${var.name}-${one}-${var.account_id}" }
  arns       = { for one, name in local.names : one => "arn:aws:s3:::${name}" }
  contents   = toset(["data", "models"])
  replicated = var.copies ? local.contents : toset([])
}

resource "aws_s3_bucket" "this" {
  # checkov:skip=CKV_AWS_144:data and models are copied where replica_kms_key_arn is set; logs describe one region
  # checkov:skip=CKV_AWS_145:data and models use the platform's key; S3 delivers access logs only to a bucket that is encrypted with its own keys (S3 user guide, "Enabling server access logging")
  # checkov:skip=CKV_AWS_18:data and models are logged; logs about the log bucket would never end
  # checkov:skip=CKV2_AWS_61:lifecycle.tf has rules for each bucket; the check does not follow for_each
  # checkov:skip=CKV2_AWS_62:nothing acts on a new object: stages are started by people and pipelines
  for_each      = local.names
  bucket        = each.value
  force_destroy = var.force_destroy
  tags          = { Name = each.value }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.bucket
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "contents" {
  for_each = local.contents
  bucket   = aws_s3_bucket.this[each.value].bucket
  rule {
    # One data key for many objects: a training job that reads 100,000 shards asks KMS about once.
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

# Neither S3's access logs nor those of load balancers are delivered to a bucket that is encrypted with a KMS key.
# Source: S3 user guide, "Enabling Amazon S3 server access logging"; ELB user guide, "Access logs"; read 2026-11.
resource "aws_s3_bucket_server_side_encryption_configuration" "logs" {
  bucket = aws_s3_bucket.this["logs"].bucket
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = aws_s3_bucket.this
  bucket                  = each.value.bucket
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.bucket
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_logging" "contents" {
  for_each      = local.contents
  bucket        = aws_s3_bucket.this[each.value].bucket
  target_bucket = aws_s3_bucket.this["logs"].bucket
  target_prefix = "s3/${each.value}/"
}
