resource "aws_cloudwatch_metric_alarm" "blocked" {
  alarm_name          = "${var.platform.name}-blocked"
  alarm_description   = "The firewall turned away more than ${var.blocked_alarm_per_minute} requests a minute: an attack, or a rule that hits clients. Runbook: docs/runbooks/error-rate.md"
  namespace           = "AWS/WAFV2"
  metric_name         = "BlockedRequests"
  dimensions          = { WebACL = aws_wafv2_web_acl.this.name, Region = var.platform.region, Rule = "ALL" }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.blocked_alarm_per_minute
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.platform.alerts_topic_arn]
  ok_actions          = [var.platform.alerts_topic_arn]
}
