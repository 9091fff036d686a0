mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name              = "nexus-test"
  kms_key_arn       = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  data_bucket       = "nexus-test-data-123456789012"
  role_arn          = "arn:aws:iam::123456789012:role/nexus-test-glue"
  vpc_id            = "vpc-1"
  subnet_id         = "subnet-1"
  availability_zone = "eu-central-1a"
  alerts_topic_arn  = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "the_job_runs_encrypted_inside_the_network_with_an_end" {
  assert {
    condition     = aws_glue_job.data.security_configuration == "nexus-test" && aws_glue_job.data.timeout == 480
    error_message = "the job is encrypted and stops some day"
  }
  assert {
    condition     = aws_glue_job.data.default_arguments["--python-modules-installer-option"] == "--no-index"
    error_message = "the job asks no package index"
  }
  assert {
    condition     = output.database == "nexus_test"
    error_message = "Athena takes no hyphens"
  }
  assert {
    condition     = aws_athena_workgroup.this.configuration[0].enforce_workgroup_configuration
    error_message = "no client writes results elsewhere"
  }
}

run "impossible_jobs_are_refused" {
  command = plan
  variables {
    worker_type     = "G.3X"
    max_workers     = 1
    timeout_minutes = 0
  }
  expect_failures = [var.worker_type, var.max_workers, var.timeout_minutes]
}
