# The gateway sends NexusLLM/API metrics with one dimension, Service. Silence is no alarm: a service may sleep.

locals {
  alarm_actions = [var.platform.alerts_topic_arn]
  dimensions    = { Service = local.service_name }
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.platform.name}-error-rate"
  alarm_description   = "More than ${var.objectives.error_percent} % of requests failed in 3 of 5 minutes, streams that broke included. Runbook: docs/runbooks/error-rate.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.objectives.error_percent
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions

  metric_query {
    id          = "percent"
    label       = "Failed requests (%)"
    expression  = "100 * FILL(errors, 0) / requests"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { errors = "ErrorCount", requests = "RequestCount" }
    content {
      id = metric_query.key
      metric {
        namespace   = "NexusLLM/API"
        metric_name = metric_query.value
        dimensions  = local.dimensions
        stat        = "Sum"
        period      = 60
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "first_token" {
  alarm_name          = "${var.platform.name}-first-token"
  alarm_description   = "The 95th percentile of the time to the first token was above ${var.objectives.first_token_seconds} s in 5 of 10 minutes. Runbook: docs/runbooks/high-latency.md"
  namespace           = "NexusLLM/API"
  metric_name         = "TimeToFirstToken"
  dimensions          = local.dimensions
  extended_statistic  = "p95"
  period              = 60
  evaluation_periods  = 10
  datapoints_to_alarm = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.objectives.first_token_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "queue" {
  alarm_name          = "${var.platform.name}-queue-depth"
  alarm_description   = "More than ${var.objectives.queue_depth} requests have waited at each task for 10 minutes: scaling does not keep up, or is at its maximum. Runbook: docs/runbooks/high-latency.md"
  namespace           = "NexusLLM/API"
  metric_name         = "QueueDepth"
  dimensions          = local.dimensions
  statistic           = "Average"
  period              = 60
  evaluation_periods  = 10
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.objectives.queue_depth
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
