# Stopped twice over: when nobody computes, and every evening. A forgotten GPU is the most common surprise on a bill.

resource "aws_cloudwatch_metric_alarm" "idle" {
  alarm_name          = "${var.name}-devbox-idle"
  alarm_description   = "The development box was idle for ${var.idle_minutes} minutes and is being stopped. Runbook: docs/runbooks/cost-overrun.md"
  namespace           = "AWS/EC2"
  metric_name         = "CPUUtilization"
  dimensions          = { InstanceId = aws_instance.box.id }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = var.idle_minutes / 5
  threshold           = local.idle_cpu_percent
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "ignore" # a stopped box reports nothing
  alarm_actions       = ["arn:aws:automate:${var.region}:ec2:stop", var.alerts_topic_arn]
}

resource "aws_iam_role" "stop" {
  name                 = "${var.name}-devbox-stop"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "stop" {
  name = "stop-the-box"
  role = aws_iam_role.stop.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "StopTheBox", Effect = "Allow", Action = "ec2:StopInstances", Resource = aws_instance.box.arn },
      { Sid = "ReadTheSchedule", Effect = "Allow", Action = "kms:Decrypt", Resource = var.kms_key_arn },
    ]
  })
}

resource "aws_scheduler_schedule" "evening" {
  name                = "${var.name}-devbox-evening"
  description         = "Stops the development box every evening"
  schedule_expression = "cron(${tonumber(split(":", var.stop_at)[1])} ${tonumber(split(":", var.stop_at)[0])} * * ? *)"
  kms_key_arn         = var.kms_key_arn
  flexible_time_window {
    mode = "OFF"
  }
  target {
    arn      = "arn:aws:scheduler:::aws-sdk:ec2:stopInstances"
    role_arn = aws_iam_role.stop.arn
    input    = jsonencode({ InstanceIds = [aws_instance.box.id] })
  }
}
