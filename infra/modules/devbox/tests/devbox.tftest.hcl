mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  account_id       = "123456789012"
  region           = "eu-central-1"
  vpc_id           = "vpc-1"
  subnet_id        = "subnet-1"
  kms_key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  bucket_arns      = ["arn:aws:s3:::nexus-test-data-123456789012"]
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "nobody_gets_in_from_outside_and_it_stops_by_itself" {
  assert {
    condition     = aws_instance.box.associate_public_ip_address == false
    error_message = "the box has no public address"
  }
  assert {
    condition     = contains(aws_cloudwatch_metric_alarm.idle.alarm_actions, "arn:aws:automate:eu-central-1:ec2:stop")
    error_message = "an idle box is stopped"
  }
  assert {
    condition     = aws_scheduler_schedule.evening.schedule_expression == "cron(0 20 * * ? *)"
    error_message = "the box is stopped every evening"
  }
}

run "wrong_hours_and_sizes_are_refused" {
  command = plan
  variables {
    stop_at       = "8pm"
    idle_minutes  = 7
    disk_gib      = 8
    instance_type = "L4"
  }
  expect_failures = [var.stop_at, var.idle_minutes, var.disk_gib, var.instance_type]
}
