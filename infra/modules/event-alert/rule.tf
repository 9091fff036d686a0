# An event of one service that becomes a message: for what has a state and no metric. The event alone would not say whom
# it woke or why, so it comes with the rule's words and its page (EventBridge user guide, "Input transformation", read
# 2026-11: aws.events.event.json is the whole event, and may stand only as a value).

locals {
  words = "${var.description} Runbook: docs/runbooks/${var.runbook}.md"
}

resource "aws_cloudwatch_event_rule" "this" {
  name          = var.name
  description   = local.words
  event_pattern = var.pattern
}

resource "aws_cloudwatch_event_target" "this" {
  rule      = aws_cloudwatch_event_rule.this.name
  target_id = "alerts"
  arn       = var.topic_arn
  input_transformer {
    input_template = "{\"what\": ${jsonencode(local.words)}, \"event\": <aws.events.event.json>}"
  }
}
