locals {
  alarm_actions = [var.platform.alerts_topic_arn]
  by_balancer   = { LoadBalancer = aws_lb.this.arn_suffix }
}

# A share, not a number: 5 errors are nothing at noon and an outage at night.
resource "aws_cloudwatch_metric_alarm" "server_errors" {
  alarm_name          = "${var.platform.name}-5xx"
  alarm_description   = "More than ${var.server_error_percent} % of requests ended with a 5xx of the balancer or of a task. Runbook: docs/runbooks/error-rate.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.server_error_percent
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching" # no request, no error
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions

  metric_query {
    id          = "percent"
    label       = "Requests that ended with 5xx (%)"
    expression  = "100 * (FILL(balancer, 0) + FILL(target, 0)) / requests"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = {
      balancer = "HTTPCode_ELB_5XX_Count"
      target   = "HTTPCode_Target_5XX_Count"
      requests = "RequestCount"
    }
    content {
      id = metric_query.key
      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value
        dimensions  = local.by_balancer
        stat        = "Sum"
        period      = 60
      }
    }
  }
}

# One for each colour: whichever holds the production traffic is watched, and a rollout may trust both.
resource "aws_cloudwatch_metric_alarm" "unhealthy" {
  for_each            = aws_lb_target_group.colour
  alarm_name          = "${var.platform.name}-unhealthy-${each.key}"
  alarm_description   = "A ${each.key} task has failed /ready for 3 of 5 minutes. Runbook: docs/runbooks/engine-crash-loop.md"
  namespace           = "AWS/ApplicationELB"
  metric_name         = "UnHealthyHostCount"
  dimensions          = merge(local.by_balancer, { TargetGroup = each.value.arn_suffix })
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching" # the idle colour has no targets and sends nothing
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
