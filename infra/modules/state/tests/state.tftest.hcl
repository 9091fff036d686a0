mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name        = "nexus-test"
  account_id  = "123456789012"
  kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
}

run "the_state_is_versioned_encrypted_and_closed" {
  assert {
    condition     = aws_s3_bucket.state.bucket == "nexus-test-state-123456789012"
    error_message = "the bucket's name is predictable, so that a lost state can be imported again"
  }
  assert {
    condition     = aws_s3_bucket_versioning.state.versioning_configuration[0].status == "Enabled"
    error_message = "old states must be kept"
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.state.block_public_acls,
      aws_s3_bucket_public_access_block.state.block_public_policy,
      aws_s3_bucket_public_access_block.state.ignore_public_acls,
      aws_s3_bucket_public_access_block.state.restrict_public_buckets,
    ])
    error_message = "nobody outside may read a state"
  }
}

run "throwing_old_states_away_at_once_is_refused" {
  command = plan
  variables {
    keep_versions_days = 1
  }
  expect_failures = [var.keep_versions_days]
}
