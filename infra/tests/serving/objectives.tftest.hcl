mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform     = jsondecode(file("./platform.json"))
  cluster_name = "nexus-test"
  service_name = "nexus-test-api"
}

run "an_hour_and_five_minutes_burn_before_somebody_is_woken" {
  module {
    source = "../../modules/serving-objectives"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.window) == 24 && length(aws_cloudwatch_composite_alarm.burn) == 6
    error_message = "three objectives, four pairs of windows, a page and a ticket each"
  }
  assert {
    condition     = strcontains(aws_cloudwatch_composite_alarm.burn["availability-page"].alarm_rule, "(ALARM(\"nexus-test-slo-availability-hour-long\") AND ALARM(\"nexus-test-slo-availability-hour-short\"))")
    error_message = "a page asks for both windows"
  }
  assert {
    condition     = abs(aws_cloudwatch_metric_alarm.window["availability-hour-long"].threshold - 1.44) < 0.0001
    error_message = "14.4 times a budget of 0.1 %"
  }
  assert {
    condition     = alltrue([for one in aws_cloudwatch_metric_alarm.window : length(coalesce(one.alarm_actions, [])) == 0])
    error_message = "a window alone tells nobody"
  }
}

run "a_budget_that_cannot_be_spent_fast_enough_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-objectives"
  }
  variables {
    objectives = { fast_percent = 90 }
  }
  expect_failures = [var.objectives]
}
