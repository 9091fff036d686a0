mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name              = "nexus-test"
  account_id        = "123456789012"
  region            = "eu-central-1"
  kms_key_arn       = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  data_bucket_arn   = "arn:aws:s3:::nexus-test-data-123456789012"
  models_bucket_arn = "arn:aws:s3:::nexus-test-models-123456789012"
  repository_arns   = ["arn:aws:ecr:eu-central-1:123456789012:repository/nexus-test/train"]
  github            = { repository = "example/nexus" }

  permissions_boundary_arn = "arn:aws:iam::123456789012:policy/nexus-test-boundary"
}

run "each_service_has_its_own_role_below_the_ceiling" {
  assert {
    condition     = length(output.role_arns) == 6
    error_message = "Glue, EMR, SageMaker have one role each, Batch three"
  }
  assert {
    condition = alltrue([
      for one in concat(values(aws_iam_role.this), aws_iam_role.github) :
      one.permissions_boundary == var.permissions_boundary_arn
    ])
    error_message = "every role carries the boundary"
  }
  assert {
    condition = alltrue([
      for service in ["glue", "emr"] : !strcontains(aws_iam_role_policy.this[service].policy, "WriteModels")
    ])
    error_message = "what makes data does not write models"
  }
  assert {
    condition = jsondecode(aws_iam_role.github[0].assume_role_policy).Statement[0].Condition.StringLike[
      "token.actions.githubusercontent.com:sub"
    ] == ["repo:example/nexus:ref:refs/heads/main"]
    error_message = "only the main branch of the named repository pushes"
  }
}

run "a_repository_that_opens_to_everybody_is_refused" {
  command = plan
  variables {
    github = { repository = "example/nexus", subjects = ["*"] }
  }
  expect_failures = [var.github]
}
