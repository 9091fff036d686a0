mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name       = "nexus-test"
  account_id = "123456789012"
  region     = "eu-central-1"
}

run "later_stages_learn_where_and_how_to_keep_their_state" {
  assert {
    condition = alltrue([
      for one in ["nexus-test-state-123456789012", "encrypt", "kms_key_id", "use_lockfile = true"] :
      strcontains(output.backend_hcl, one)
    ])
    error_message = "the backend names the bucket, encrypts with the key and locks by file"
  }
}

run "a_wrong_account_is_refused" {
  command = plan
  variables {
    name       = "N"
    account_id = "1234"
  }
  expect_failures = [var.name, var.account_id]
}
