# How many tasks run: as many as the requests in flight need, one more when the first token is late, none by night.

# The schedule moves minimum and maximum, too: an apply while the service sleeps wakes it until the next night.
resource "aws_appautoscaling_target" "tasks" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${var.cluster_name}/${var.service_name}"
  min_capacity       = var.tasks.min
  max_capacity       = var.tasks.max
}

# The mean over all tasks' samples is what one task has in flight: twice the tasks halve it, as target tracking needs it. The
# queue alone is 0 with too many tasks as with just enough, so that tasks would come and go for ever
# (tests/infra/test_scaling_simulated.py); what waits is part of what is in flight.
resource "aws_appautoscaling_policy" "queue" {
  name               = "${var.platform.name}-requests-in-flight"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.requests_per_task
    scale_out_cooldown = 60
    scale_in_cooldown  = 600 # a task that leaves ends nobody's stream, but a model takes minutes to load again

    customized_metric_specification {
      namespace   = "NexusLLM/API"
      metric_name = "RequestsInFlight"
      statistic   = "Average"
      dimensions {
        name  = "Service"
        value = var.service_name
      }
    }
  }
}

# A late first token does not fall in proportion to the tasks, so it adds one at a time and never takes one away.
resource "aws_appautoscaling_policy" "first_token" {
  name               = "${var.platform.name}-first-token"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.tasks.service_namespace
  scalable_dimension = aws_appautoscaling_target.tasks.scalable_dimension
  resource_id        = aws_appautoscaling_target.tasks.resource_id

  step_scaling_policy_configuration {
    adjustment_type         = "ChangeInCapacity"
    metric_aggregation_type = "Average"
    cooldown                = 300
    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 1
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "first_token" {
  alarm_name          = "${var.platform.name}-scale-first-token"
  alarm_description   = "Adds a task: the 95th percentile of the first token's time was above ${var.first_token_seconds} s for 3 minutes. Runbook: docs/runbooks/high-latency.md"
  namespace           = "NexusLLM/API"
  metric_name         = "TimeToFirstToken"
  dimensions          = { Service = var.service_name }
  extended_statistic  = "p95"
  period              = 60
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.first_token_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.first_token.arn]
}
