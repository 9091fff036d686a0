mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name                 = "nexus-test"
  vpc_id               = "vpc-1"
  subnet_ids           = ["subnet-1", "subnet-2"]
  kms_key_arn          = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  instance_profile_arn = "arn:aws:iam::123456789012:instance-profile/nexus-test-batch-instance"
  job_role_arn         = "arn:aws:iam::123456789012:role/nexus-test-batch-job"
  execution_role_arn   = "arn:aws:iam::123456789012:role/nexus-test-batch-execution"
  image                = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/nexus-test/train:1"
  alerts_topic_arn     = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "an_empty_queue_costs_nothing_and_disks_are_encrypted" {
  assert {
    condition     = alltrue([for one in aws_batch_compute_environment.this : one.compute_resources[0].min_vcpus == 0])
    error_message = "no machine waits for jobs"
  }
  assert {
    condition = alltrue([
      for one in aws_launch_template.machine : one.block_device_mappings[0].ebs[0].kms_key_id == var.kms_key_arn &&
      one.metadata_options[0].http_tokens == "required"
    ])
    error_message = "disks use the platform's key, and the metadata service asks for a token"
  }
  assert {
    condition = one(
      aws_batch_compute_environment.this["gpu"].compute_resources[0].ec2_configuration
    ).image_type == "ECS_AL2023_NVIDIA"
    error_message = "GPU machines have the driver"
  }
}

run "a_queue_that_holds_no_machine_is_refused" {
  command = plan
  variables {
    queues = { cpu = { instance_types = ["c7i"], max_vcpus = 0 } }
  }
  expect_failures = [var.queues]
}
