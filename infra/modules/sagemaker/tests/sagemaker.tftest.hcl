mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  account_id       = "123456789012"
  kms_key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  vpc_id           = "vpc-1"
  role_arn         = "arn:aws:iam::123456789012:role/nexus-test-sagemaker"
  models_bucket    = "nexus-test-models-123456789012"
  pipeline_file    = "tests/pipeline.json"
  mlflow           = true
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "the_pipeline_is_the_file_and_tracking_keeps_to_its_folder" {
  assert {
    condition     = jsondecode(aws_sagemaker_pipeline.this[0].pipeline_definition).Version == "2020-12-01"
    error_message = "the definition is the file's"
  }
  assert {
    condition = !anytrue([
      for one in jsondecode(aws_iam_role_policy.mlflow[0].policy).Statement : one.Resource == "*"
    ])
    error_message = "the tracking server reaches its own folder only"
  }
  assert {
    condition     = aws_sagemaker_mlflow_tracking_server.this[0].automatic_model_registration == false
    error_message = "models are registered by the gate"
  }
}

run "a_file_that_is_no_pipeline_is_refused" {
  command = plan
  variables {
    pipeline_file = "tests/sagemaker.tftest.hcl"
  }
  expect_failures = [var.pipeline_file]
}
