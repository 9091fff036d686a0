mock_provider "aws" {
  source = "../../tests/mocks"
}

mock_provider "aws" {
  alias  = "replica"
  source = "../../tests/mocks"
}

variables {
  name                = "nexus-test"
  account_id          = "123456789012"
  region              = "eu-central-1"
  kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  copies              = true
  replica_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000002"
  alerts_topic_arn    = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "every_bucket_is_versioned_closed_and_denies_clear_text" {
  assert {
    condition     = length(aws_s3_bucket_versioning.this) == 3 && length(aws_s3_bucket_public_access_block.this) == 3
    error_message = "data, models and logs are versioned and closed"
  }
  assert {
    condition = alltrue([
      for one in merge(aws_s3_bucket_policy.this, { copy = aws_s3_bucket_policy.replica["data"] }) : anytrue([
        for statement in jsondecode(one.policy).Statement :
        statement.Effect == "Deny" && try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
      ])
    ])
    error_message = "every bucket, the copies too, denies requests without TLS"
  }
  assert {
    condition = alltrue([
      for one in jsondecode(aws_s3_bucket_policy.this["data"].policy).Statement :
      one.Condition.Null == { for header in keys(one.Condition.StringNotEquals) : header => "false" }
      if can(one.Condition.StringNotEquals)
    ])
    error_message = "a writer that names no encryption must not be refused: the bucket brings its own"
  }
  assert {
    condition = alltrue([
      for bucket in aws_s3_bucket_server_side_encryption_configuration.contents :
      one(bucket.rule).apply_server_side_encryption_by_default[0].kms_master_key_id == var.kms_key_arn
    ])
    error_message = "data and models are encrypted with the platform's key"
  }
  assert {
    condition = toset(keys(output.replica_bucket_names)) == toset(["data", "models"]) && alltrue([
      for one in aws_s3_bucket_replication_configuration.this :
      one.rule[0].destination[0].encryption_configuration[0].replica_kms_key_id == var.replica_kms_key_arn
    ])
    error_message = "copies are encrypted with the second region's key"
  }
}

run "without_a_second_key_nothing_is_copied_and_short_lives_are_refused" {
  command = plan
  variables {
    copies             = false
    log_days           = 1
    keep_versions_days = 0
    scratch_days       = 0
  }
  expect_failures = [var.log_days, var.keep_versions_days, var.scratch_days]
}
