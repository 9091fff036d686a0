mock_provider "aws" {
  source = "../mocks-serving"
}

variables {
  platform = jsondecode(file("./platform.json"))
}

run "a_cluster_has_insights_and_no_way_into_its_containers" {
  module {
    source = "../../modules/serving-cluster"
  }
  assert {
    condition     = [for one in aws_ecs_cluster.this.setting : one.value] == ["enabled"]
    error_message = "Container Insights must be on"
  }
  assert {
    condition     = length(aws_ecs_cluster.this.configuration) == 0
    error_message = "ECS Exec must not be configured"
  }
  assert {
    condition     = aws_cloudwatch_log_group.insights.kms_key_id == var.platform.kms_key_arn
    error_message = "the insights log must be encrypted"
  }
}

run "gpu_machines_have_no_public_address_and_insist_on_imdsv2" {
  module {
    source = "../../modules/serving-gpu-capacity"
  }
  variables {
    warm_instances = 1
  }
  assert {
    condition     = aws_launch_template.gpu.network_interfaces[0].associate_public_ip_address == "false"
    error_message = "no public address"
  }
  assert {
    condition     = aws_launch_template.gpu.metadata_options[0].http_tokens == "required" && aws_launch_template.gpu.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "IMDSv2 with one hop"
  }
  assert {
    condition     = aws_launch_template.gpu.block_device_mappings[0].ebs[0].encrypted == "true"
    error_message = "the disk must be encrypted"
  }
  assert {
    condition     = startswith(aws_launch_template.gpu.image_id, "resolve:ssm:/aws/service/ecs/optimized-ami/")
    error_message = "the machine image comes from AWS' parameter"
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.gpu.user_data), "ECS_WARM_POOLS_CHECK=true") && aws_autoscaling_group.gpu.warm_pool[0].pool_state == "Stopped"
    error_message = "a warm machine must wait stopped, outside the cluster"
  }
  assert {
    condition     = aws_ecs_capacity_provider.gpu.auto_scaling_group_provider[0].managed_scaling[0].status == "ENABLED" && aws_autoscaling_group.gpu.protect_from_scale_in
    error_message = "ECS scales the machines and takes only empty ones away"
  }
}

run "without_warm_machines_there_is_no_warm_pool" {
  command = plan
  module {
    source = "../../modules/serving-gpu-capacity"
  }
  assert {
    condition     = length(aws_autoscaling_group.gpu.warm_pool) == 0
    error_message = "no warm pool was asked for"
  }
}

run "a_machine_without_a_gpu_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-gpu-capacity"
  }
  variables {
    instance_type = "m7i.large"
  }
  expect_failures = [var.instance_type]
}

run "one_machine_has_no_room_for_green" {
  command = plan
  module {
    source = "../../modules/serving-gpu-capacity"
  }
  variables {
    max_instances = 1
  }
  expect_failures = [var.max_instances]
}

run "a_name_with_capitals_is_refused" {
  command = plan
  module {
    source = "../../modules/serving-cluster"
  }
  variables {
    platform = { name = "Nexus", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
  expect_failures = [var.platform]
}
