mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name        = "nexus-test-glue-failed"
  description = "A Glue job failed."
  runbook     = "failed-job"
  pattern     = "{\"source\":[\"aws.glue\"]}"
  topic_arn   = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "the_event_reaches_the_topic" {
  assert {
    condition     = aws_cloudwatch_event_target.this.arn == var.topic_arn
    error_message = "the target is the topic"
  }
  assert {
    condition     = jsondecode(replace(aws_cloudwatch_event_target.this.input_transformer[0].input_template, "<aws.events.event.json>", "{}")).what == "A Glue job failed. Runbook: docs/runbooks/failed-job.md"
    error_message = "the message says what it is about and where to read on"
  }
}

run "a_pattern_without_a_source_is_refused" {
  command = plan
  variables {
    pattern = "{}"
  }
  expect_failures = [var.pattern]
}
