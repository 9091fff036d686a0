# To zero and back by the clock. From zero no metric of ours can wake the service, since no task sends any: the clock
# does, or, where wake_on_request is on, the balancer's 503 to the first caller, who tries again while the model loads.

resource "aws_appautoscaling_scheduled_action" "sleep" {
  count              = var.schedule == null ? 0 : 1
  name               = "${var.platform.name}-sleep"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id
  schedule           = "cron(${var.schedule.sleep})"
  timezone           = var.schedule.timezone

  scalable_target_action {
    min_capacity = 0
    max_capacity = var.schedule.wake_on_request ? var.tasks.max : 0
  }
}

resource "aws_appautoscaling_scheduled_action" "wake" {
  count              = var.schedule == null ? 0 : 1
  name               = "${var.platform.name}-wake"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id
  schedule           = "cron(${var.schedule.wake})"
  timezone           = var.schedule.timezone

  scalable_target_action {
    min_capacity = max(var.tasks.min, 1)
    max_capacity = var.tasks.max
  }
}

locals {
  wakes_on_request = try(var.schedule.wake_on_request, false) || var.tasks.min == 0
}

resource "aws_appautoscaling_policy" "wake" {
  count              = local.wakes_on_request ? 1 : 0
  name               = "${var.platform.name}-wake-on-request"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  step_scaling_policy_configuration {
    adjustment_type         = "ExactCapacity"
    metric_aggregation_type = "Maximum"
    cooldown                = 900 # as long as a GPU machine and a model take to come up
    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 1
    }
  }
}

# A balancer without a healthy target answers 503 by itself. While tasks run, ExactCapacity 1 would take some away, so the
# alarm also asks that none is there.
resource "aws_cloudwatch_metric_alarm" "wake" {
  count               = local.wakes_on_request ? 1 : 0
  alarm_name          = "${var.platform.name}-scale-wake"
  alarm_description   = "Starts the first task: somebody called while none was running. Runbook: docs/runbooks/high-latency.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.wake[0].arn]

  metric_query {
    id          = "calls"
    label       = "Callers who found nobody"
    expression  = "IF(FILL(tasks, 0) == 0, refused, 0)"
    return_data = true
  }
  metric_query {
    id = "refused"
    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_ELB_503_Count"
      dimensions  = { LoadBalancer = var.balancer_arn_suffix }
      stat        = "Sum"
      period      = 60
    }
  }
  metric_query {
    id = "tasks"
    metric {
      namespace   = "ECS/ContainerInsights"
      metric_name = "RunningTaskCount"
      dimensions  = { ClusterName = var.cluster_name, ServiceName = var.service_name }
      stat        = "Maximum"
      period      = 60
    }
  }
}
