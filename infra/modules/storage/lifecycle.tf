# What nobody asks for becomes cheaper by itself. Intelligent tiering moves an object back when it is read and charges no
# retrieval, so a guess about reading habits cannot cost more than its monitoring.

resource "aws_s3_bucket_lifecycle_configuration" "contents" {
  # checkov:skip=CKV_AWS_300:the rule "unfinished" aborts uploads; the check does not see rules of a for_each
  for_each = local.contents
  bucket   = aws_s3_bucket_versioning.this[each.value].bucket

  rule {
    id     = "tiering"
    status = "Enabled"
    filter {
      object_size_greater_than = 131072 # smaller objects are never tiered (S3 user guide)
    }
    transition {
      days          = 0
      storage_class = "INTELLIGENT_TIERING"
    }
  }
  rule {
    id     = "scratch"
    status = "Enabled"
    filter {
      prefix = "scratch/"
    }
    expiration {
      days = var.scratch_days
    }
  }
  rule {
    id     = "unfinished"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
    noncurrent_version_expiration {
      noncurrent_days = var.keep_versions_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }
}

resource "aws_s3_bucket_intelligent_tiering_configuration" "contents" {
  for_each = local.contents
  bucket   = aws_s3_bucket.this[each.value].bucket
  name     = "archive"
  # The instant tiers need no setting. This one takes minutes to hours to come back, so only old corpora go there.
  filter {
    prefix = "archive/"
  }
  tiering {
    access_tier = "ARCHIVE_ACCESS"
    days        = 90
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket_versioning.this["logs"].bucket
  rule {
    id     = "old-logs"
    status = "Enabled"
    filter {}
    expiration {
      days = var.log_days
    }
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}
