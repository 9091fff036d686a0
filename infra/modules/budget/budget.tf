# A budget warns, it does not stop: AWS reports spending up to a day late, and nothing here switches anything off.

resource "aws_budgets_budget" "month" {
  name         = "${var.name}-month"
  budget_type  = "COST"
  limit_amount = format("%.1f", var.usd_per_month)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "cost_filter" {
    for_each = var.cost_tag == null ? [] : [var.cost_tag]
    content {
      name   = "TagKeyValue"
      values = [format("user:%s$%s", cost_filter.value.key, cost_filter.value.value)]
    }
  }
  dynamic "notification" {
    for_each = var.warn_at_percent
    content {
      notification_type         = "ACTUAL"
      comparison_operator       = "GREATER_THAN"
      threshold                 = notification.value
      threshold_type            = "PERCENTAGE"
      subscriber_sns_topic_arns = [var.alerts_topic_arn]
    }
  }
  notification {
    notification_type         = "FORECASTED"
    comparison_operator       = "GREATER_THAN"
    threshold                 = 100
    threshold_type            = "PERCENTAGE"
    subscriber_sns_topic_arns = [var.alerts_topic_arn]
  }
}

resource "aws_ce_anomaly_monitor" "services" {
  count             = var.anomaly_usd == null ? 0 : 1
  name              = "${var.name}-services"
  monitor_type      = "DIMENSIONAL"
  monitor_dimension = "SERVICE"
}

resource "aws_ce_anomaly_subscription" "alerts" {
  count            = var.anomaly_usd == null ? 0 : 1
  name             = "${var.name}-anomalies"
  frequency        = "IMMEDIATE" # the only one that a topic may subscribe to
  monitor_arn_list = [aws_ce_anomaly_monitor.services[0].arn]
  subscriber {
    type    = "SNS"
    address = var.alerts_topic_arn
  }
  threshold_expression {
    dimension {
      key           = "ANOMALY_TOTAL_IMPACT_ABSOLUTE"
      match_options = ["GREATER_THAN_OR_EQUAL"]
      values        = [tostring(var.anomaly_usd)]
    }
  }
}
