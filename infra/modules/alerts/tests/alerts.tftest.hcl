mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name        = "nexus-test"
  account_id  = "123456789012"
  kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  emails      = ["on-call@example.com"]
}

run "messages_are_encrypted_and_clear_text_is_denied" {
  assert {
    condition     = aws_sns_topic.this.kms_master_key_id == var.kms_key_arn
    error_message = "the topic must use the platform's key"
  }
  assert {
    condition = anytrue([
      for one in jsondecode(aws_sns_topic_policy.this.policy).Statement :
      one.Effect == "Deny" && try(one.Condition.Bool["aws:SecureTransport"], "") == "false"
    ])
    error_message = "publishing without TLS must be denied"
  }
  assert {
    condition     = length(aws_sns_topic_subscription.email) == 1
    error_message = "each address is one subscription"
  }
}

run "a_word_that_is_no_address_is_refused" {
  command = plan
  variables {
    emails = ["nobody"]
  }
  expect_failures = [var.emails]
}
