# Blue/green by CodeDeploy: green starts beside blue, is tried on the test listener, gets a share of the traffic, then all
# of it; an alarm on the way turns everything back.

resource "aws_codedeploy_app" "this" {
  name             = "${var.platform.name}-api"
  compute_platform = "ECS"
}

resource "aws_codedeploy_deployment_config" "canary" {
  deployment_config_name = "${var.platform.name}-canary"
  compute_platform       = "ECS"

  traffic_routing_config {
    type = "TimeBasedCanary"
    time_based_canary {
      percentage = var.canary.percent
      interval   = var.canary.minutes
    }
  }
}

resource "aws_codedeploy_deployment_group" "this" {
  app_name               = aws_codedeploy_app.this.name
  deployment_group_name  = "${var.platform.name}-api"
  deployment_config_name = aws_codedeploy_deployment_config.canary.id
  service_role_arn       = aws_iam_role.this.arn

  deployment_style {
    deployment_type   = "BLUE_GREEN"
    deployment_option = "WITH_TRAFFIC_CONTROL"
  }

  ecs_service {
    cluster_name = var.serving.cluster_name
    service_name = var.serving.service_name
  }

  load_balancer_info {
    target_group_pair_info {
      prod_traffic_route {
        listener_arns = [var.serving.listener_arns.production]
      }
      test_traffic_route {
        listener_arns = [var.serving.listener_arns.test]
      }
      dynamic "target_group" {
        for_each = ["blue", "green"]
        content {
          name = var.serving.target_groups[target_group.value].name
        }
      }
    }
  }

  blue_green_deployment_config {
    deployment_ready_option {
      # With a wait, green stands on the test listener until somebody says go, and is given up when nobody does.
      action_on_timeout    = var.test_minutes > 0 ? "STOP_DEPLOYMENT" : "CONTINUE_DEPLOYMENT"
      wait_time_in_minutes = var.test_minutes
    }
    terminate_blue_instances_on_deployment_success {
      action                           = "TERMINATE"
      termination_wait_time_in_minutes = var.bake_minutes # until then, going back takes seconds
    }
  }

  auto_rollback_configuration {
    enabled = true
    events  = ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"]
  }

  alarm_configuration {
    enabled                   = true
    alarms                    = var.serving.rollback_alarm_names
    ignore_poll_alarm_failure = false # who cannot read the alarms must not deploy
  }

  trigger_configuration {
    trigger_name       = "alerts"
    trigger_target_arn = var.platform.alerts_topic_arn
    trigger_events     = ["DeploymentFailure", "DeploymentRollback", "DeploymentStop"]
  }
}
