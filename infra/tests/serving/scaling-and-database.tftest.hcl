mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform                 = jsondecode(file("./platform.json"))
  cluster_name             = "nexus-test"
  service_name             = "nexus-test-api"
  balancer_arn_suffix      = "app/nexus-test/0123456789abcdef"
  tasks                    = { min = 1, max = 4 }
  client_security_group_id = "sg-0000000000000000c"
}

run "tasks_follow_the_queue_and_late_first_tokens" {
  module {
    source = "../../modules/serving-scaling"
  }
  assert {
    condition     = aws_appautoscaling_policy.queue.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metric_name == "RequestsInFlight"
    error_message = "queue depth is tracked"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.first_token.metric_name == "TimeToFirstToken" && aws_appautoscaling_policy.first_token.step_scaling_policy_configuration[0].step_adjustment != null
    error_message = "a late first token adds a task"
  }
  assert {
    condition     = length(aws_appautoscaling_scheduled_action.sleep) == 0 && length(aws_appautoscaling_policy.wake) == 0
    error_message = "nobody asked for sleep"
  }
}

run "developers_nights_cost_nothing" {
  module {
    source = "../../modules/serving-scaling"
  }
  variables {
    schedule = { sleep = "0 19 ? * MON-FRI *", wake = "0 7 ? * MON-FRI *", timezone = "Europe/Berlin" }
  }
  assert {
    condition     = aws_appautoscaling_scheduled_action.sleep[0].scalable_target_action[0].max_capacity == "0" && aws_appautoscaling_scheduled_action.wake[0].scalable_target_action[0].min_capacity == "1"
    error_message = "zero at night, at least one by day"
  }
}

run "who_sleeps_on_demand_is_woken_by_the_first_caller" {
  module {
    source = "../../modules/serving-scaling"
  }
  variables {
    tasks = { min = 0, max = 2 }
  }
  assert {
    condition     = length(aws_appautoscaling_policy.wake) == 1 && anytrue([for one in aws_cloudwatch_metric_alarm.wake[0].metric_query : try(one.metric[0].metric_name, "") == "HTTPCode_ELB_503_Count"])
    error_message = "a 503 of the balancer starts the first task"
  }
}

run "a_minimum_above_the_maximum_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-scaling"
  }
  variables {
    tasks = { min = 5, max = 4 }
  }
  expect_failures = [var.tasks]
}

run "keys_lie_encrypted_in_private_and_nobody_knows_a_password" {
  module {
    source = "../../modules/serving-database"
  }
  assert {
    condition     = aws_rds_cluster.this.storage_encrypted && aws_rds_cluster.this.iam_database_authentication_enabled && aws_rds_cluster.this.manage_master_user_password
    error_message = "encrypted, IAM log-in, no password of ours"
  }
  assert {
    condition     = alltrue([for one in aws_rds_cluster_instance.this : !one.publicly_accessible])
    error_message = "private"
  }
  assert {
    condition     = aws_rds_cluster.this.backup_retention_period == 14 && aws_rds_cluster.this.deletion_protection && !aws_rds_cluster.this.skip_final_snapshot
    error_message = "backed up, protected, with a last snapshot"
  }
  assert {
    condition     = aws_rds_cluster.this.tags["backup"] == "daily"
    error_message = "the platform's vault takes what carries this tag, and nothing else"
  }
  assert {
    condition     = anytrue([for one in aws_rds_cluster_parameter_group.this.parameter : one.name == "rds.force_ssl" && one.value == "1"])
    error_message = "TLS only"
  }
  assert {
    condition     = !strcontains(output.url, ":@") && can(regex("^postgresql\\+psycopg://nexus_gateway@", output.url))
    error_message = "the URL carries no password"
  }
}
