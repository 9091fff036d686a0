mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name                = "nexus-test"
  account_id          = "123456789012"
  region              = "eu-central-1"
  kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  watched_bucket_arns = ["arn:aws:s3:::nexus-test-models-123456789012"]
  lock_days           = 90
  guardduty           = true
  config              = true
  alerts_topic_arn    = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "the_trail_covers_all_regions_and_cannot_be_tidied_up" {
  assert {
    condition     = aws_cloudtrail.this.is_multi_region_trail && aws_cloudtrail.this.enable_log_file_validation
    error_message = "all regions, with digests that show a change"
  }
  assert {
    condition     = aws_s3_bucket_object_lock_configuration.audit[0].rule[0].default_retention[0].days == 90
    error_message = "records are locked for as long as asked"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.deed) == 5 && length(aws_config_config_rule.this) == 8
    error_message = "five deeds raise an alarm, eight rules are checked"
  }
}

run "a_trail_shorter_than_aws_own_is_refused" {
  command = plan
  variables {
    retention_days = 30
    lock_days      = 0
  }
  expect_failures = [var.retention_days, var.lock_days]
}
