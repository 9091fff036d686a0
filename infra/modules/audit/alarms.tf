# What should never happen quietly. Thresholds are one event in five minutes: each is rare, and each is somebody's deed.

locals {
  deeds = {
    root-used = {
      text    = "The account's root user did something: find out who, and why not a role."
      pattern = "{ $.userIdentity.type = \"Root\" && $.userIdentity.invokedBy NOT EXISTS && $.eventType != \"AwsServiceEvent\" }"
    }
    trail-changed = {
      text    = "Somebody changed or stopped the trail itself."
      pattern = "{ ($.eventName = StopLogging) || ($.eventName = DeleteTrail) || ($.eventName = UpdateTrail) || ($.eventName = PutEventSelectors) }"
    }
    key-endangered = {
      text    = "A KMS key is to be deleted or was disabled: what it encrypted goes with it."
      pattern = "{ ($.eventSource = kms.amazonaws.com) && (($.eventName = DisableKey) || ($.eventName = ScheduleKeyDeletion)) }"
    }
    bucket-opened = {
      text    = "Somebody changed who may use a bucket."
      pattern = "{ ($.eventSource = s3.amazonaws.com) && (($.eventName = PutBucketPolicy) || ($.eventName = DeleteBucketPolicy) || ($.eventName = PutBucketPublicAccessBlock) || ($.eventName = DeleteBucketPublicAccessBlock)) }"
    }
    console-without-mfa = {
      text    = "Somebody signed in to the console without a second factor."
      pattern = "{ ($.eventName = \"ConsoleLogin\") && ($.additionalEventData.MFAUsed != \"Yes\") && ($.userIdentity.type = \"IAMUser\") && ($.responseElements.ConsoleLogin = \"Success\") }"
    }
  }
}

resource "aws_cloudwatch_log_metric_filter" "deed" {
  for_each       = local.deeds
  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.trail.name
  pattern        = each.value.pattern
  metric_transformation {
    name      = each.key
    namespace = "NexusLLM/Audit/${var.name}"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "deed" {
  for_each            = aws_cloudwatch_log_metric_filter.deed
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${local.deeds[each.key].text} Runbook: docs/runbooks/key-leak.md"
  namespace           = each.value.metric_transformation[0].namespace
  metric_name         = each.value.metric_transformation[0].name
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alerts_topic_arn]
}
