# The data stage on Glue, and its results by name: a database that Spark and Athena read.

resource "aws_glue_catalog_database" "this" {
  name        = replace(var.name, "-", "_") # Athena takes no hyphens
  description = "Documents of data artifacts"
}

resource "aws_glue_data_catalog_encryption_settings" "account" {
  count = var.encrypt_account_catalog ? 1 : 0
  data_catalog_encryption_settings {
    connection_password_encryption {
      aws_kms_key_id                       = var.kms_key_arn
      return_connection_password_encrypted = true
    }
    encryption_at_rest {
      catalog_encryption_mode = "SSE-KMS"
      sse_aws_kms_key_id      = var.kms_key_arn
    }
  }
}

resource "aws_athena_workgroup" "this" {
  name          = var.name
  force_destroy = true # a saved query is no data
  configuration {
    enforce_workgroup_configuration    = true
    publish_cloudwatch_metrics_enabled = true
    bytes_scanned_cutoff_per_query     = 1099511627776 # 1 TiB: $5 in us-east-1 (AWS price list, 2026-07)
    result_configuration {
      output_location = "s3://${var.data_bucket}/scratch/athena/"
      encryption_configuration {
        encryption_option = "SSE_KMS"
        kms_key_arn       = var.kms_key_arn
      }
    }
  }
}
