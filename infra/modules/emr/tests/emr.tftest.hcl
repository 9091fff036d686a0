mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  vpc_id           = "vpc-1"
  subnet_ids       = ["subnet-1", "subnet-2"]
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "it_stops_by_itself_and_has_a_ceiling" {
  assert {
    condition     = aws_emrserverless_application.this.auto_stop_configuration[0].enabled
    error_message = "an idle application must stop"
  }
  assert {
    condition     = aws_emrserverless_application.this.maximum_capacity[0].cpu == "80 vCPU"
    error_message = "capacity has a ceiling"
  }
  assert {
    condition     = length(aws_emrserverless_application.this.initial_capacity) == 0
    error_message = "nothing is kept warm"
  }
}

run "another_spark_is_refused" {
  command = plan
  variables {
    release      = "emr-6.15.0"
    max_vcpus    = 1
    idle_minutes = 0
  }
  expect_failures = [var.release, var.max_vcpus, var.idle_minutes]
}
