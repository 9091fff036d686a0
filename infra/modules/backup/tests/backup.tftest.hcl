mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  account_id       = "123456789012"
  kms_key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  lock_min_days    = 7
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "tagged_resources_are_kept_locked_and_encrypted" {
  assert {
    condition     = aws_backup_vault.this.kms_key_arn == var.kms_key_arn
    error_message = "the vault uses the platform's key"
  }
  assert {
    condition     = aws_backup_vault_lock_configuration.this[0].changeable_for_days == null
    error_message = "a lock that nobody can lift is nobody's wish"
  }
  assert {
    condition     = length(one(aws_backup_selection.tagged.condition).string_equals) == 2
    error_message = "only what is ours and asks for it is backed up"
  }
}

run "copies_are_made_daily_and_go_to_a_second_region_where_asked" {
  variables {
    keep_days      = 35
    copies         = true
    copy_vault_arn = "arn:aws:backup:eu-west-1:123456789012:backup-vault:nexus-test-copy"
  }
  assert {
    condition     = one(aws_backup_plan.daily.rule).schedule == "cron(0 3 * * ? *)" && one(one(aws_backup_plan.daily.rule).lifecycle).delete_after == 35
    error_message = "a copy a day, kept as long as was asked"
  }
  assert {
    condition     = one(one(aws_backup_plan.daily.rule).copy_action).destination_vault_arn == var.copy_vault_arn && one(one(one(aws_backup_plan.daily.rule).copy_action).lifecycle).delete_after == 35
    error_message = "the second region's vault receives each copy, kept as long"
  }
  assert {
    condition     = contains(aws_backup_vault_notifications.this.backup_vault_events, "BACKUP_JOB_FAILED") && contains(aws_backup_vault_notifications.this.backup_vault_events, "COPY_JOB_FAILED")
    error_message = "somebody hears of a copy that failed"
  }
}

run "a_lock_longer_than_the_plan_is_refused" {
  command = plan
  variables {
    keep_days     = 5
    lock_min_days = 7
  }
  expect_failures = [var.lock_min_days]
}
