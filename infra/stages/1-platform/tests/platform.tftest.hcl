mock_provider "aws" {
  source = "../../tests/mocks"
}

mock_provider "aws" {
  alias  = "replica"
  source = "../../tests/mocks"
}

variables {
  name               = "nexus-test"
  account_id         = "123456789012"
  region             = "eu-central-1"
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  replica_region     = "eu-west-1"
  alert_emails       = ["on-call@example.com"]
  budget             = { usd_per_month = 2000, cost_tag = { key = "project", value = "nexus-llm" } }
  network            = { nat = "per_zone", interface_endpoints = ["ecr.api", "ecr.dkr", "logs"] }
  security = {
    lock_days     = 90
    watch_objects = true
    guardduty     = true
    config        = true
    github        = { repository = "example/nexus" }
  }
  jobs   = { mlflow = true, pipeline_file = "../../modules/sagemaker/tests/pipeline.json" }
  backup = { lock_min_days = 7 }
  devbox = {}
  tags   = { project = "nexus-llm" }
}

# Everything switched on: tests/infra reads this run's state and checks its policies and encryption.
run "the_platform_hands_on_what_later_stages_take" {
  assert {
    condition = toset(keys(output.platform)) == toset([
      "account_id", "alerts_topic_arn", "data_bucket", "data_bucket_arn", "ecr_repository_urls",
      "endpoint_security_group_id", "kms_key_arn", "logs_bucket", "logs_bucket_arn", "models_bucket",
      "models_bucket_arn", "name", "permissions_boundary_arn", "private_subnet_ids", "public_subnet_ids", "region",
      "tags", "vpc_cidr", "vpc_id",
    ])
    error_message = "the fields of `platform` are a contract: serving and delivery read them"
  }
  assert {
    condition     = output.platform.data_bucket == "nexus-test-data-123456789012"
    error_message = "names are made of the prefix and the account, never by chance"
  }
}

run "a_zone_or_a_copy_in_the_wrong_region_is_refused" {
  command = plan
  variables {
    availability_zones = ["us-east-1a", "us-east-1b"]
    replica_region     = "eu-central-1"
  }
  expect_failures = [var.availability_zones, var.replica_region]
}
