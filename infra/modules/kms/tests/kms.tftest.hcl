mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name       = "nexus-test"
  account_id = "123456789012"
  region     = "eu-central-1"
}

run "the_key_turns_and_only_the_account_and_its_services_use_it" {
  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.rotation_period_in_days == 365
    error_message = "the key must rotate every year"
  }
  assert {
    condition = alltrue([
      for one in jsondecode(aws_kms_key.this.policy).Statement :
      contains(["TheAccountDecidesThroughIam", "EventsPublishToEncryptedTopics"], one.Sid) || can(one.Condition)
    ])
    error_message = "every statement but the account's own and EventBridge's needs a condition"
  }
  assert {
    condition     = output.alias_name == "alias/nexus-test-platform"
    error_message = "the alias carries prefix and purpose"
  }
}

run "wrong_words_and_numbers_are_refused_before_anything_is_planned" {
  command = plan
  variables {
    name                 = "Nexus"
    account_id           = "12345"
    purpose              = "Two words"
    rotation_days        = 30
    deletion_window_days = 3
  }
  expect_failures = [var.name, var.account_id, var.purpose, var.rotation_days, var.deletion_window_days]
}
