# Copies of data and models in a second region, for the day that the first one is gone.

resource "aws_s3_bucket" "replica" {
  # checkov:skip=CKV_AWS_144:this is the copy
  # checkov:skip=CKV_AWS_18:only S3 writes here and nobody reads before a disaster; CloudTrail records both
  # checkov:skip=CKV2_AWS_61:the rule below is for each copy; the check does not follow for_each
  # checkov:skip=CKV2_AWS_62:nothing acts on a new copy
  for_each      = local.replicated
  provider      = aws.replica
  bucket        = "${var.name}-${each.value}-replica-${var.account_id}"
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_versioning" "replica" {
  for_each = aws_s3_bucket.replica
  provider = aws.replica
  bucket   = each.value.bucket
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "replica" {
  for_each = aws_s3_bucket.replica
  provider = aws.replica
  bucket   = each.value.bucket
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.replica_kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "replica" {
  for_each                = aws_s3_bucket.replica
  provider                = aws.replica
  bucket                  = each.value.bucket
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "replica" {
  for_each = aws_s3_bucket.replica
  provider = aws.replica
  bucket   = each.value.bucket
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "replica" {
  for_each = aws_s3_bucket_versioning.replica
  provider = aws.replica
  bucket   = each.value.bucket
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.keep_versions_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_s3_bucket_policy" "replica" {
  for_each = aws_s3_bucket_public_access_block.replica
  provider = aws.replica
  bucket   = each.value.bucket
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "NothingInClearText"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::${each.value.bucket}", "arn:aws:s3:::${each.value.bucket}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

resource "aws_iam_role" "replication" {
  count                = length(local.replicated) > 0 ? 1 : 0
  name                 = "${var.name}-replication"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "s3.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "replication" {
  count = length(local.replicated) > 0 ? 1 : 0
  name  = "copy-data-and-models"
  role  = aws_iam_role.replication[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ReadWhatIsToBeCopied"
        Effect   = "Allow"
        Action   = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
        Resource = [for one in local.replicated : local.arns[one]]
      },
      {
        Sid    = "ReadVersions"
        Effect = "Allow"
        Action = [
          "s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging",
        ]
        Resource = [for one in local.replicated : "${local.arns[one]}/*"]
      },
      {
        Sid      = "WriteCopies"
        Effect   = "Allow"
        Action   = ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]
        Resource = [for one in aws_s3_bucket.replica : "arn:aws:s3:::${one.bucket}/*"]
      },
      { Sid = "DecryptHere", Effect = "Allow", Action = "kms:Decrypt", Resource = var.kms_key_arn },
      { Sid = "EncryptThere", Effect = "Allow", Action = "kms:Encrypt", Resource = var.replica_kms_key_arn },
    ]
  })
}

resource "aws_s3_bucket_replication_configuration" "this" {
  for_each = local.replicated
  bucket   = aws_s3_bucket_versioning.this[each.value].bucket
  role     = aws_iam_role.replication[0].arn
  rule {
    id     = "everything"
    status = "Enabled"
    filter {}
    delete_marker_replication {
      status = "Enabled"
    }
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    destination {
      bucket        = aws_s3_bucket.replica[each.value].arn
      storage_class = "STANDARD_IA"
      encryption_configuration {
        replica_kms_key_id = var.replica_kms_key_arn
      }
      metrics {
        status = "Enabled"
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.replica]
}

resource "aws_cloudwatch_metric_alarm" "replication" {
  for_each          = aws_s3_bucket_replication_configuration.this
  alarm_name        = "${var.name}-replication-${each.key}"
  alarm_description = "Operations that failed to copy ${each.key} to the second region. Runbook: docs/runbooks/region-loss.md"
  namespace         = "AWS/S3"
  metric_name       = "OperationsFailedReplication"
  dimensions = {
    SourceBucket      = local.names[each.key]
    DestinationBucket = aws_s3_bucket.replica[each.key].bucket
    RuleId            = "everything"
  }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 3
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alerts_topic_arn]
}
