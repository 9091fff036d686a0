mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform            = jsondecode(file("./platform.json"))
  serving             = jsondecode(file("./serving.json"))
  artifact_bucket_arn = "arn:aws:s3:::nexus-test-delivery-123456789012"
  purpose             = "check"
  description         = "Tests."
  buildspec           = "infra/delivery/buildspecs/check.yml"
  source_code = {
    connection_arn = "arn:aws:codeconnections:eu-central-1:123456789012:connection/1"
    repository     = "example/nexus-llm"
  }
  projects = { for one in ["check", "deploy", "gate", "image"] : one => "nexus-test-${one}" }
}

run "a_build_that_makes_no_images_is_not_privileged_and_cannot_push" {
  module {
    source = "../../modules/delivery-build"
  }
  assert {
    condition     = !aws_codebuild_project.this.environment[0].privileged_mode && aws_codebuild_project.this.encryption_key == var.platform.kms_key_arn
    error_message = "not privileged, encrypted"
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.this.policy, "ecr:")
    error_message = "no right in the registry"
  }
}

run "the_image_build_pushes_to_its_repository_alone" {
  command = plan
  module {
    source = "../../modules/delivery-build"
  }
  variables {
    purpose       = "image"
    builds_images = true
    pushes_to     = ["arn:aws:ecr:eu-central-1:123456789012:repository/nexus-test/serve"]
  }
  assert {
    condition     = one([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : one.Resource if one.Sid == "PushImages"]) == ["arn:aws:ecr:eu-central-1:123456789012:repository/nexus-test/serve"]
    error_message = "one repository"
  }
}

run "the_rollout_reaches_its_service_alone" {
  command = plan
  module {
    source = "../../modules/delivery-build"
  }
  variables {
    purpose = "deploy"
    rolls_out = {
      application_name       = "nexus-test-api"
      deployment_group_name  = "nexus-test-api"
      deployment_config_name = "nexus-test-canary"
      cluster_name           = "nexus-test"
      service_name           = "nexus-test-api"
      task_role_arns         = ["arn:aws:iam::123456789012:role/nexus-test-api-task"]
      alarm_names            = ["nexus-test-5xx"]
      models_bucket_arn      = "arn:aws:s3:::nexus-test-models-123456789012"
      api_key_secret_arn     = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:nexus-test-key-AbCdEf"
    }
  }
  assert {
    condition     = alltrue([for one in jsondecode(aws_iam_role_policy.this.policy).Statement : contains(["RegisterTaskDefinitions", "LookAtItsTasks"], one.Sid) || !contains(one.Resource, "*")])
    error_message = "all but what knows no resources is named"
  }
  assert {
    condition     = one([for one in aws_codebuild_project.this.environment[0].environment_variable : one.type if one.name == "NEXUS_API_KEY"]) == "SECRETS_MANAGER"
    error_message = "the key comes from Secrets Manager"
  }
}

run "a_secret_in_the_environment_is_refused" {
  command = plan
  module {
    source = "../../modules/delivery-build"
  }
  variables {
    environment = { API_TOKEN = "x" }
  }
  expect_failures = [var.environment]
}

run "green_is_tried_gets_a_share_and_is_turned_back_by_an_alarm" {
  module {
    source = "../../modules/delivery-rollout"
  }
  assert {
    condition     = aws_codedeploy_deployment_group.this.alarm_configuration[0].enabled && !aws_codedeploy_deployment_group.this.alarm_configuration[0].ignore_poll_alarm_failure && length(aws_codedeploy_deployment_group.this.alarm_configuration[0].alarms) == 5
    error_message = "all alarms of the service are watched"
  }
  assert {
    condition     = contains(aws_codedeploy_deployment_group.this.auto_rollback_configuration[0].events, "DEPLOYMENT_STOP_ON_ALARM")
    error_message = "an alarm turns it back"
  }
  assert {
    condition     = length(aws_codedeploy_deployment_group.this.load_balancer_info[0].target_group_pair_info[0].test_traffic_route) == 1
    error_message = "there is a test listener"
  }
  assert {
    condition     = aws_codedeploy_deployment_config.canary.traffic_routing_config[0].time_based_canary[0].percentage == 10
    error_message = "a tenth first"
  }
}

run "a_rollout_without_alarms_is_refused" {
  command = plan
  module {
    source = "../../modules/delivery-rollout"
  }
  variables {
    serving = merge(jsondecode(file("./serving.json")), { rollback_alarm_names = [] })
  }
  expect_failures = [var.serving]
}

run "the_pipeline_judges_before_it_asks_and_asks_before_it_deploys" {
  module {
    source = "../../modules/delivery-pipeline"
  }
  assert {
    condition     = [for one in aws_codepipeline.this.stage : one.name] == ["Source", "Check", "Image", "Gate", "Approval", "Deploy"]
    error_message = "check, image, gate, approval, deploy"
  }
  assert {
    condition     = aws_s3_bucket_public_access_block.this.restrict_public_buckets && strcontains(aws_s3_bucket_policy.this.policy, "aws:SecureTransport")
    error_message = "the bucket is private and speaks TLS only"
  }
}

run "a_pipeline_may_go_on_by_itself" {
  command = plan
  module {
    source = "../../modules/delivery-pipeline"
  }
  variables {
    needs_approval = false
  }
  assert {
    condition     = !contains([for one in aws_codepipeline.this.stage : one.name], "Approval")
    error_message = "nobody is asked"
  }
}
