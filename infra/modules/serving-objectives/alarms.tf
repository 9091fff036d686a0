# Burn rates: how many times too fast an objective's budget of 30 days goes. One alarm a window; a composite asks that a
# long and a short one burn, so that a blip wakes nobody and an alarm ends with its cause.
# Beyer et al. 2018, "The Site Reliability Workbook", chapter 5, approach 6. CloudWatch has no period of three days: there
# 8 of the last 12 quarters of a day stand for it.

locals {
  tiers = {
    hour       = { severity = "page", burn = 14.4, long = { period = 3600 }, short = { period = 300 } }
    quarter    = { severity = "page", burn = 6, long = { period = 21600 }, short = { period = 1800 } }
    day        = { severity = "ticket", burn = 3, long = { period = 86400 }, short = { period = 7200 } }
    three-days = { severity = "ticket", burn = 1, long = { period = 21600, points = 12, needed = 8 }, short = { period = 21600 } }
  }
  slow = 100 - var.objectives.fast_percent
  # PR(:n) is the share of samples up to n, in percent.
  signals = {
    availability = {
      says    = "requests failed, streams that broke included"
      runbook = "error-rate"
      budget  = 100 - var.objectives.available_percent
      percent = "100 * part / all"
      part    = { name = "ErrorCount", stat = "Sum" }
      all     = { name = "RequestCount", stat = "Sum" }
    }
    first-token = {
      says    = "first tokens came later than ${var.objectives.first_token_seconds} s"
      runbook = "high-latency"
      budget  = local.slow
      percent = "100 - part"
      part    = { name = "TimeToFirstToken", stat = "PR(:${var.objectives.first_token_seconds})" }
      all     = { name = "TimeToFirstToken", stat = "SampleCount" }
    }
    answer = {
      says    = "answers took longer than ${var.objectives.answer_seconds} s"
      runbook = "high-latency"
      budget  = local.slow
      percent = "100 - part"
      part    = { name = "ResponseTime", stat = "PR(:${var.objectives.answer_seconds})" }
      all     = { name = "ResponseTime", stat = "SampleCount" }
    }
  }
  windows = merge([
    for signal, of in local.signals : merge([
      for tier, at in local.tiers : {
        for length in ["long", "short"] : "${signal}-${tier}-${length}" => {
          signal    = of
          threshold = at.burn * of.budget
          burn      = at.burn
          period    = at[length].period
          points    = try(at[length].points, 1)
          needed    = try(at[length].needed, 1)
        }
      }
    ]...)
  ]...)
  composites = merge([
    for signal, of in local.signals : {
      for severity in ["page", "ticket"] : "${signal}-${severity}" => {
        signal   = signal
        says     = of.says
        runbook  = of.runbook
        severity = severity
        tiers    = sort([for tier, at in local.tiers : tier if at.severity == severity])
      }
    }
  ]...)
}

# They act through their composites alone.
resource "aws_cloudwatch_metric_alarm" "window" {
  for_each            = local.windows
  alarm_name          = "${var.platform.name}-slo-${each.key}"
  alarm_description   = "More than ${each.value.threshold} % of ${each.value.signal.says}: ${each.value.burn} times the budget. Runbook: docs/runbooks/${each.value.signal.runbook}.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.points
  datapoints_to_alarm = each.value.needed
  treat_missing_data  = "notBreaching"

  # Without FILL an hour without requests would have no point, and an alarm would go on judging the last hour that had.
  metric_query {
    id          = "percent"
    label       = "Share of ${each.value.signal.says} (%)"
    expression  = "IF(FILL(all, 0) >= ${var.objectives.least_requests}, ${each.value.signal.percent}, 0)"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { part = each.value.signal.part, all = each.value.signal.all }
    content {
      id = metric_query.key
      metric {
        namespace   = "NexusLLM/API"
        metric_name = metric_query.value.name
        dimensions  = { Service = var.service_name }
        stat        = metric_query.value.stat
        period      = each.value.period
      }
    }
  }
}

resource "aws_cloudwatch_composite_alarm" "burn" {
  for_each          = local.composites
  alarm_name        = "${var.platform.name}-slo-${each.key}"
  alarm_description = "Too many ${each.value.says}: ${each.value.severity == "page" ? "at this rate the budget of 30 days is gone within days" : "the budget of 30 days will not last"}. Runbook: docs/runbooks/${each.value.runbook}.md"
  alarm_rule = join(" OR ", [
    for tier in each.value.tiers :
    "(ALARM(\"${aws_cloudwatch_metric_alarm.window["${each.value.signal}-${tier}-long"].alarm_name}\") AND ALARM(\"${aws_cloudwatch_metric_alarm.window["${each.value.signal}-${tier}-short"].alarm_name}\"))"
  ])
  alarm_actions = [var.platform.alerts_topic_arn]
  ok_actions    = [var.platform.alerts_topic_arn]
}
