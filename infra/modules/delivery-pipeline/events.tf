# A pipeline has no metric of its failure, but says so as an event.

resource "aws_cloudwatch_event_rule" "failed" {
  name        = "${local.full_name}-failed"
  description = "An execution of ${local.full_name} failed"
  event_pattern = jsonencode({
    source      = ["aws.codepipeline"]
    detail-type = ["CodePipeline Pipeline Execution State Change"]
    detail      = { pipeline = [local.full_name], state = ["FAILED"] }
  })
}

resource "aws_cloudwatch_event_target" "failed" {
  rule      = aws_cloudwatch_event_rule.failed.name
  target_id = "alerts"
  arn       = var.platform.alerts_topic_arn
}
